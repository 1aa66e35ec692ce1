#include "base/safetensors.h"
