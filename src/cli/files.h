// Writing files so that a reader sees the old one or the new one, never half of one.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <string_view>

namespace engine::cli {

/// Writes a temporary file beside `path`, syncs it and renames it. Parent directories are made. Throws Error; on error nothing of the new file stays.
void write_file_atomically(const std::string& path, std::string_view text, mode_t mode = 0644);

/// Makes the directory and its parents, with mode 0700. Throws Error.
void make_private_directory(const std::filesystem::path& directory);

/// "~/x" with $HOME for the tilde.
std::string expand_home(const std::string& path);

}  // namespace engine::cli
