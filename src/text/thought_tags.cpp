#include "text/thought_tags.h"

namespace engine {
namespace {

constexpr ThoughtTags rows[] = {
    {"<think>", "</think>"},                          // Qwen 3, QwQ, DeepSeek R1, SmolLM 3, GLM, MiniMax, Granite 3.3, Nemotron Nano
    {"<|START_THINKING|>", "<|END_THINKING|>"},       // Command R7B and A
    {"[THINK]", "[/THINK]"},                          // Magistral
    {"<seed:think>", "</seed:think>"},                // Seed-OSS
    {"<|channel>", "<channel|>", "thought"},          // Gemma 4
};

}  // namespace

const ThoughtTags* find_thought_tags(std::string_view source) {
  for (const ThoughtTags& row : rows) {
    if (source.find(row.close) != std::string_view::npos) return &row;
  }
  return nullptr;
}

ThoughtState thought_state(const ThoughtTags& tags, std::string_view prompt_end) {
  prompt_end = prompt_end.substr(0, prompt_end.find_last_not_of(" \n") + 1);
  if (prompt_end.ends_with(tags.opening())) return ThoughtState::open;
  return prompt_end.ends_with(tags.close) ? ThoughtState::closed : ThoughtState::none;
}

}  // namespace engine
