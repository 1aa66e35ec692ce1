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

  /// What `ids` become. Without `add_special_tokens` they stay as they are.
  std::vector<int32_t> apply(std::vector<int32_t> ids, bool add_special_tokens) const;

 private:
  void add(const Json& json, int depth);
  void add_template(const Json& json);
  void add_pair(const Json& json, const char* component);
  void set_once();
  std::vector<int32_t> before_, after_;
  bool set_ = false;
};

}  // namespace engine::tok
