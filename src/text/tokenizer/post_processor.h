// The post-processors of tokenizer.json, for single sequences: which ids stand before and after a text.
#pragma once

#include <cstdint>
#include <vector>

#include "base/json.h"

namespace engine::tok {

class PostProcessor {
 public:
  /// From tokenizer.json's "post_processor" (null: none). Throws Error that names the component which is not supported.
  static PostProcessor from_json(const Json& json);

  /// What `ids` become. Without `add_special_tokens` only the sequence itself is kept (as often as a template names
  /// it).
  std::vector<int32_t> apply(std::vector<int32_t> ids, bool add_special_tokens) const;
  /// Highest id that it adds, -1 if none.
  int32_t highest_id() const;

 private:
  struct Item {
    bool is_sequence;
    std::vector<int32_t> ids;
  };
  using Template = std::vector<Item>;
  void add(const Json& json, int depth);
  void add_template(const Json& json);
  void add_pair(const Json& json, const char* component);
  std::vector<Template> templates_;  // applied one after the other
};

}  // namespace engine::tok
