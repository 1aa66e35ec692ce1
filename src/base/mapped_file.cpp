#include "base/mapped_file.h"
