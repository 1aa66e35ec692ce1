#include "mutate.h"

#include <vector>

namespace engine::fuzz {

std::string Mutator::bytes(std::string text, std::span<const std::string> words) {
  for (size_t n = 1 + below(4); n > 0; --n) {
    const size_t at = below(text.size() + 1), left = text.size() - at;
    const size_t length = std::min(left, size_t{1} << below(8));
    switch (below(7)) {
      case 0:
        if (left > 0) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 1:
        if (left > 0) text[at] = static_cast<char>(below(256));
        break;
      case 2: text.erase(at, length); break;
      case 3: text.insert(at, text.substr(at, length)); break;
      case 4: text.insert(below(text.size() + 1), text.substr(at, length)); break;
      case 5: text.insert(at, pick(words)); break;
      case 6: {
        const std::string& word = pick(words);
        text.replace(at, std::min(left, word.size()), word);
        break;
      }
    }
    if (one_in(40)) text.resize(below(text.size() + 1));
  }
  return text;
}

Json Mutator::odd_value() {
  static const std::vector<Json> values = {
      nullptr, true, false, 0, 1, 2, 3, 7, 16, 255, 256, 65536, -1, -2147483648LL, 2147483647, 2147483648LL, 4294967296LL, 9223372036854775807LL,
      18446744073709551615ULL, 0.5, -0.0, 1e-300, 1e300, 1.5, "", "a", "\0", "\xF0\x9F\x98\x80", "../x", "BPE", "ByteLevel", "F32", "yarn",
      "llama3", "longrope", "gelu", Json::array(), Json::object(), Json::array({1, 2, 3}), Json::array({Json::array()}),
      Json::array({nullptr}), Json{{"type", "Sequence"}}, std::string(300, 'x')};
  return values[below(values.size())];
}

Json* Mutator::any_node(Json& root) {
  Json* node = &root;
  while (node->is_structured() && !node->empty() && !one_in(5)) {
    // Large lists (a vocabulary) are entered near their ends as often as anywhere.
    const size_t i = one_in(3) ? below(std::min<size_t>(node->size(), 4)) : below(node->size());
    node = node->is_array() ? &(*node)[i] : &std::next(node->begin(), static_cast<ptrdiff_t>(i)).value();
  }
  return node;
}

Json Mutator::json(Json document) {
  for (size_t n = 1 + below(3); n > 0; --n) {
    Json& node = *any_node(document);
    switch (below(6)) {
      case 0: node = odd_value(); break;
      case 1: {
        const Json copy = *any_node(document);  // from elsewhere
        node = copy;
        break;
      }
      case 2:
        if (node.is_object() && !node.empty()) node.erase(std::next(node.begin(), static_cast<ptrdiff_t>(below(node.size()))));
        else if (node.is_array() && !node.empty()) node.erase(below(node.size()));
        break;
      case 3:
        if (node.is_array()) node.push_back(node.empty() || one_in(2) ? odd_value() : Json(node[below(node.size())]));
        else if (node.is_object()) node[odd_value().dump(-1, ' ', false, Json::error_handler_t::replace)] = odd_value();
        break;
      case 4:
        if (node.is_number_integer()) node = static_cast<int64_t>(node.get<uint64_t>() + below(5) - 2);  // wraps
        else if (node.is_number_float()) node = node.get<double>() * (one_in(2) ? -1 : 1e10);
        else if (node.is_string()) node = bytes(node.get<std::string>(), std::vector<std::string>{"a", " ", "\xFF", "\xC2"});
        break;
      case 5:
        if (node.is_object() && node.size() >= 2) {  // two members change places
          auto a = std::next(node.begin(), static_cast<ptrdiff_t>(below(node.size())));
          auto b = std::next(node.begin(), static_cast<ptrdiff_t>(below(node.size())));
          std::swap(a.value(), b.value());
        }
        break;
    }
  }
  return document;
}

}  // namespace engine::fuzz
