#include "text/tokenizer/post_processor.h"

#include "base/error.h"
#include "text/tokenizer/normalizer.h"
#include "text/tokenizer/vocab.h"

namespace engine::tok {
namespace {

constexpr const char* kTemplate = "post_processor TemplateProcessing";
constexpr size_t kMaxItems = 1000;

// {"id": name, "ids": [...]} of the template's table.
std::vector<int32_t> ids_of(const Json& table, const std::string& name) {
  const auto entry = table.find(name);
  if (entry == table.end() || !entry->is_object())
    throw Error(std::string(kTemplate) + ": special_tokens: expected an entry '" + name + "'");
  const Json& list = member(*entry, kTemplate, "ids");
  if (!list.is_array() || list.size() > kMaxItems)
    throw Error(std::string(kTemplate) + ": special_tokens: ids: expected a list");
  std::vector<int32_t> ids;
  for (const Json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > static_cast<uint64_t>(kMaxTokenId))
      throw Error(std::string(kTemplate) + ": special_tokens: ids: expected ids below 10000000");
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

}  // namespace

void PostProcessor::add_template(const Json& json) {
  const Json& single = member(json, kTemplate, "single");
  const Json& table = member(json, kTemplate, "special_tokens");
  if (!single.is_array() || single.size() > kMaxItems)
    throw Error(std::string(kTemplate) + ": single: expected a list");
  if (!table.is_object()) throw Error(std::string(kTemplate) + ": special_tokens: expected an object");
  set_once();
  int sequences = 0;
  for (const Json& item : single) {
    if (!item.is_object() || item.size() != 1 || !item.begin().value().is_object())
      throw Error(std::string(kTemplate) + ": single: expected Sequence or SpecialToken");
    const std::string id = string_member(item.begin().value(), kTemplate, "id");
    if (item.begin().key() == "Sequence") {
      if (id != "A") throw Error(std::string(kTemplate) + ": single: expected sequence A, got '" + id + "'");
      ++sequences;
    } else if (item.begin().key() == "SpecialToken") {
      const std::vector<int32_t> ids = ids_of(table, id);
      std::vector<int32_t>& side = sequences == 0 ? before_ : after_;
      side.insert(side.end(), ids.begin(), ids.end());
    } else {
      throw Error(std::string(kTemplate) + ": single: expected Sequence or SpecialToken, got '" + item.begin().key() +
                  "'");
    }
  }
  if (sequences != 1) throw Error(std::string(kTemplate) + ": single: expected sequence A once");
}

// In the library a second one sees what the first made as several sequences, and treats them as a pair. No model wants
// that.
void PostProcessor::set_once() {
  if (set_) throw Error("post_processor: expected at most one that adds tokens");
  set_ = true;
}

// BERT's and RoBERTa's: ["[SEP]", 102], ["[CLS]", 101].
void PostProcessor::add_pair(const Json& json, const char* component) {
  const auto id_of = [&](const char* name) {
    const Json& pair = member(json, component, name);
    if (!pair.is_array() || pair.size() != 2 || !pair[1].is_number_unsigned() ||
        pair[1].get<uint64_t>() > static_cast<uint64_t>(kMaxTokenId))
      throw Error(std::string(component) + ": " + name + ": expected [token, id]");
    return pair[1].get<int32_t>();
  };
  set_once();
  before_ = {id_of("cls")};
  after_ = {id_of("sep")};
}

void PostProcessor::add(const Json& json, int depth) {
  if (depth > 16) throw Error("post_processor: expected at most 16 nested sequences");
  const std::string type = component_type(json, "post_processor");
  if (type == "Sequence") {
    const Json& items = member(json, "post_processor Sequence", "processors");
    if (!items.is_array()) throw Error("post_processor Sequence: processors: expected a list");
    for (const Json& item : items) add(item, depth + 1);
  } else if (type == "TemplateProcessing") {
    add_template(json);
  } else if (type == "BertProcessing") {
    add_pair(json, "post_processor BertProcessing");
  } else if (type == "RobertaProcessing") {
    add_pair(json, "post_processor RobertaProcessing");
  } else if (type != "ByteLevel") {  // which only changes offsets
    throw Error("post_processor: expected a supported type, got '" + type + "'");
  }
}

PostProcessor PostProcessor::from_json(const Json& json) {
  PostProcessor out;
  if (!json.is_null()) out.add(json, 0);
  return out;
}

std::vector<int32_t> PostProcessor::apply(std::vector<int32_t> ids, bool add_special_tokens) const {
  if (!add_special_tokens) return ids;
  ids.insert(ids.begin(), before_.begin(), before_.end());
  ids.insert(ids.end(), after_.begin(), after_.end());
  return ids;
}

}  // namespace engine::tok
