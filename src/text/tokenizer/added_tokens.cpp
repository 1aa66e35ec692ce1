#include "text/tokenizer/added_tokens.h"

#include <algorithm>
#include <iterator>

#include "base/error.h"
#include "text/tokenizer/normalizer.h"
#include "text/tokenizer/unicode.h"
#include "text/tokenizer/vocab.h"

namespace engine::tok {
namespace {

// Vocabularies (Gemma's) hold HTML elements as added tokens. They are ordinary text that users write and ask about, and
// no template delimits with them.
constexpr std::string_view kHtmlElements[] = {
    "a",       "abbr",   "article", "aside",  "audio",  "b",   "bbox",  "blockquote", "body",   "br",      "button",
    "caption", "center", "cite",    "code",   "col",    "dd",  "del",   "div",        "dl",     "dt",      "em",
    "figure",  "font",   "footer",  "form",   "h1",     "h2",  "h3",    "h4",         "h5",     "h6",      "head",
    "header",  "hr",     "html",    "i",      "iframe", "img", "input", "ins",        "label",  "li",      "main",
    "mark",    "nav",    "ol",      "option", "p",      "pre", "q",     "s",          "script", "section", "select",
    "small",   "span",   "strong",  "style",  "sub",    "sup", "svg",   "table",      "tbody",  "td",      "tfoot",
    "th",      "thead",  "title",   "tr",     "u",      "ul",  "var",   "video",
};

bool is_html(std::string_view s) {
  if (s.size() < 3 || s.front() != '<' || s.back() != '>') return false;
  s = s.substr(1, s.size() - 2);
  if (s.starts_with('/')) s.remove_prefix(1);
  return std::find(std::begin(kHtmlElements), std::end(kHtmlElements), s) != std::end(kHtmlElements);
}

}  // namespace

bool AddedTokens::is_control(const AddedToken& token) {
  if (token.special) return true;
  if (is_html(token.content)) return false;
  const char* end = token.content.data() + token.content.size();
  for (const char* p = token.content.data(); p < end;) {
    const uint32_t cp = next_code_point(p);
    if (!is_white_space(cp) && cp != 0x2581 && !in_categories(cp, kLetters | kMarks | kNumbers)) return true;
  }
  return false;
}

void AddedTokens::add(const AddedToken& token, const Vocab& vocab) {
  if (token.content.empty()) return;
  if (token.content.size() > max_content_bytes)
    throw Error("added token '" + token.content.substr(0, 20) + "...': expected at most 1024 bytes, got " +
                std::to_string(token.content.size()));
  if (token.special) special_contents_.emplace(token.content, true);
  const auto known = by_content_.find(token.content);
  if (known != by_content_.end()) {
    AddedToken merged = token;
    merged.special |= tokens_[known->second].special;  // the library's list of special tokens only grows
    tokens_[known->second] = merged;
    return;
  }
  int32_t id = vocab.find(token.content);
  if (id < 0) id = std::max(static_cast<int32_t>(vocab.count()), max_id_ + 1);
  if (id > kMaxTokenId)
    throw Error("added token '" + token.content + "': expected an id below 10000000, got " + std::to_string(id));
  max_id_ = std::max(max_id_, id);
  const size_t index = tokens_.size();
  tokens_.push_back(token);
  ids_.push_back(id);
  by_content_.emplace(token.content, index);
  by_id_[id] = index;
  limit_ = std::max(limit_, id + 1);
}

void AddedTokens::Trie::insert(std::string_view text, int32_t token) {
  if (nodes.empty()) std::fill(std::begin(roots), std::end(roots), -1);
  int32_t* link = &roots[static_cast<uint8_t>(text[0])];
  for (size_t i = 0;; ++i) {
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    int32_t node = *link;
    while (node >= 0 && nodes[node].byte != byte) node = nodes[node].sibling;
    if (node < 0) {
      node = static_cast<int32_t>(nodes.size());
      Node fresh;
      fresh.byte = byte;
      fresh.sibling = *link;
      *link = node;
      nodes.push_back(fresh);  // may move `link`'s target, which is not used again
    }
    if (i + 1 == text.size()) {
      if (nodes[node].token < 0) nodes[node].token = token;
      return;
    }
    link = &nodes[node].child;
  }
}

void AddedTokens::finish(const NormalizerChain& normalizer) {
  control_.clear();
  for (Trie& trie : tries_) trie.nodes.clear();
  for (const AddedToken& token : tokens_) control_.push_back(is_control(token));
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const bool normalized = tokens_[i].normalized;
    const std::string text = normalized ? normalizer.apply(tokens_[i].content) : tokens_[i].content;
    if (!text.empty()) tries_[normalized].insert(text, static_cast<int32_t>(i));
  }
}

int32_t AddedTokens::find(std::string_view content) const {
  const auto it = by_content_.find(std::string(content));
  return it == by_content_.end() ? -1 : ids_[it->second];
}

const AddedToken* AddedTokens::by_id(int32_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &tokens_[it->second];
}

bool AddedTokens::is_special_content(std::string_view content) const {
  return special_contents_.contains(std::string(content));
}

// Leftmost-longest.
bool AddedTokens::find_match(const Trie& trie, const Piece& piece, size_t from, Found* found) const {
  const std::string_view text = piece.text;
  for (size_t at = from; at < text.size(); ++at) {
    int32_t node = trie.roots[static_cast<uint8_t>(text[at])];
    if (node < 0) continue;
    found->token = -1;
    for (size_t i = at; node >= 0;) {
      const int32_t token = trie.nodes[node].token;
      ++i;
      if (token >= 0 && (!control_[token] || piece.trusted_between(at, i))) *found = {token, at, i};
      if (i == text.size()) break;
      const uint8_t byte = static_cast<uint8_t>(text[i]);
      node = trie.nodes[node].child;
      while (node >= 0 && trie.nodes[node].byte != byte) node = trie.nodes[node].sibling;
    }
    if (found->token >= 0) return true;
  }
  return false;
}

// The order of tests is the library's: a match that single_word rejects is still used up, blanks that rstrip takes are
// looked at again for tokens made of blanks.
void AddedTokens::split(const Piece& piece, bool normalized, AddedTokenSink& sink) const {
  const Trie& trie = tries_[normalized];
  const char* text = piece.text.data();
  const char* text_end = text + piece.text.size();
  size_t done = 0;
  Found found;
  for (size_t from = 0; !trie.nodes.empty() && find_match(trie, piece, from, &found); from = found.end) {
    const AddedToken& token = tokens_[found.token];
    const char* begin = text + found.begin;
    const char* end = text + found.end;
    if (token.single_word) {
      const char* before = begin;
      const char* after = end;
      if (begin > text && is_added_token_word(previous_code_point(before))) continue;
      if (end < text_end && is_added_token_word(next_code_point(after))) continue;
    }
    while (token.lstrip && begin > text + done) {
      const char* before = begin;
      if (!is_white_space(previous_code_point(before))) break;
      begin = before;
    }
    while (token.rstrip && end < text_end) {
      const char* after = end;
      if (!is_white_space(next_code_point(after))) break;
      end = after;
    }
    if (text + done < begin) sink.take_text(piece.sub(done, static_cast<size_t>(begin - text)));
    sink.take_token(ids_[found.token]);
    done = static_cast<size_t>(end - text);
  }
  if (done < piece.text.size()) sink.take_text(piece.sub(done, piece.text.size()));
}

}  // namespace engine::tok
