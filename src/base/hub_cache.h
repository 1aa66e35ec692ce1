// Where models of the Hugging Face Hub lie on this machine: huggingface_hub's rules, so that all programs share one cache.
#pragma once

#include <string>

namespace engine {

/// The variable's value; "" where it is not set.
std::string environment(const char* name);

/// HF_HUB_CACHE, the older HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub.
std::string hub_cache_directory();
/// What holds the token of `hf auth login` where HF_TOKEN_PATH names no other file: HF_HOME/token and so on.
std::string hub_token_path();

/// NAME or ORG/NAME of the characters that the Hub allows.
bool is_hub_id(const std::string& id);
/// "ORG/NAME" -> CACHE/models--ORG--NAME, which holds blobs/, refs/ and snapshots/.
std::string hub_model_folder(const std::string& id);

/// A revision is a path below refs/ ("main", "pr/3") or a commit; throws Error if it would leave the cache.
void check_revision(const std::string& revision);

}  // namespace engine
