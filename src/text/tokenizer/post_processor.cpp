#include "text/tokenizer/post_processor.h"

#include <algorithm>

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
  Template out;
  for (const Json& item : single) {
    if (!item.is_object() || item.size() != 1)
      throw Error(std::string(kTemplate) + ": single: expected Sequence or SpecialToken");
    const Json& body = item.begin().value();
    if (!body.is_object()) throw Error(std::string(kTemplate) + ": single: expected Sequence or SpecialToken");
    const std::string id = string_member(body, kTemplate, "id");
    if (item.begin().key() == "Sequence") {
      if (id != "A") throw Error(std::string(kTemplate) + ": single: expected sequence A, got '" + id + "'");
      out.push_back({true, {}});
    } else if (item.begin().key() == "SpecialToken") {
      out.push_back({false, ids_of(table, id)});
    } else {
      throw Error(std::string(kTemplate) + ": single: expected Sequence or SpecialToken, got '" + item.begin().key() +
                  "'");
    }
  }
  // More than one would let a chain of templates multiply the text.
  if (std::count_if(out.begin(), out.end(), [](const Item& i) { return i.is_sequence; }) != 1)
    throw Error(std::string(kTemplate) + ": single: expected sequence A once");
  templates_.push_back(std::move(out));
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
  templates_.push_back({{false, {id_of("cls")}}, {true, {}}, {false, {id_of("sep")}}});
}

void PostProcessor::add(const Json& json, int depth) {
  if (depth > 16 || templates_.size() > 16) throw Error("post_processor: expected at most 16 processors");
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
  for (const Template& items : templates_) {
    bool before = true;
    std::vector<int32_t> prefix;
    for (const Item& item : items) {
      if (item.is_sequence)
        before = false;
      else if (before)
        prefix.insert(prefix.end(), item.ids.begin(), item.ids.end());
      else
        ids.insert(ids.end(), item.ids.begin(), item.ids.end());
    }
    ids.insert(ids.begin(), prefix.begin(), prefix.end());
  }
  return ids;
}

int32_t PostProcessor::highest_id() const {
  int32_t highest = -1;
  for (const Template& items : templates_)
    for (const Item& item : items)
      for (const int32_t id : item.ids) highest = std::max(highest, id);
  return highest;
}

}  // namespace engine::tok
