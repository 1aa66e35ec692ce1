// Reading a tokenizer's files. The vocabulary and the merges, nearly all of tokenizer.json, go straight from the mapped
// bytes into their tables; the small components are parsed as JSON.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "base/builtin_files.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "text/tokenizer/json_scanner.h"
#include "text/tokenizer/pipeline.h"
#include "text/tokenizer/unicode.h"

namespace engine::tok {
namespace {

constexpr size_t kMaxFileBytes = size_t{512} << 20;
constexpr size_t kMaxAddedTokens = 1'000'000;
constexpr size_t kMaxComponentBytes = size_t{16} << 20;

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

MappedFile map_file(const std::string& path) {
  MappedFile file(path);
  if (file.bytes().size() > kMaxFileBytes)
    throw Error(path + ": expected at most 512 MiB, got " + std::to_string(file.bytes().size()) + " bytes");
  return file;
}

/// Runs a component's reader and puts the file's name before its errors.
template <class F>
auto in_file(const std::string& path, F&& read) {
  try {
    return read();
  } catch (const Error& e) {
    const bool has_path = e.message.starts_with(path);
    throw Error(
        has_path ? path + one_line(std::string_view(e.message).substr(path.size())) : path + ": " + one_line(e.message),
        e.hint);
  }
}

AddedToken read_added_token(JsonScanner& in) {
  AddedToken token;
  bool has_content = false, has_normalized = false;
  in.object([&](std::string_view key) {
    if (key == "content") {
      token.content = in.string();
      has_content = true;
    } else if (key == "single_word") {
      token.single_word = in.boolean();
    } else if (key == "lstrip") {
      token.lstrip = in.boolean();
    } else if (key == "rstrip") {
      token.rstrip = in.boolean();
    } else if (key == "normalized") {
      token.normalized = in.boolean();
      has_normalized = true;
    } else if (key == "special") {
      token.special = in.boolean();
    } else {
      in.skip();
    }
  });
  if (!has_content) throw Error(in.where() + ": added token: expected a field 'content'");
  if (!has_normalized) token.normalized = !token.special;
  return token;
}

// --- the model ---

std::optional<std::string> optional_string(JsonScanner& in) {
  if (in.is_null()) return in.skip(), std::nullopt;
  return std::string(in.string());
}

bool optional_bool(JsonScanner& in) {
  if (in.is_null()) return in.skip(), false;
  return in.boolean();
}

/// Reads merges by rank. Parts and results are looked up in the vocabulary, some dozens at a time: the tables are
/// larger than the caches, and so the memory accesses overlap.
class MergeReader {
 public:
  MergeReader(const Bpe& bpe, const std::string& where) : vocab_(bpe.vocab()), where_(where) {
    prefix_size_ = bpe.options().continuing_subword_prefix.size();
  }

  std::vector<MergeTable::Row> read(JsonScanner& in) {
    rows_.reserve(std::min(in.rest().size() / 16, size_t{1} << 20));
    in.array([&] {
      Item& item = items_[n_items_];
      if (!read_simple(in, item) && !read_any(in, item)) return;
      if (++n_items_ == kBatch) resolve();
    });
    resolve();
    return std::move(rows_);
  }

 private:
  static constexpr size_t kBatch = 32;
  struct Item {
    size_t begin, middle, end;  // in buffer_; the left part ends at middle
    bool plain;                 // both parts are texts as the vocabulary holds them
    TextKey left, right;
  };

  /// "a b" or ["a", "b"] without escapes, straight into the buffer as the vocabulary holds them. False, and nothing is
  /// taken, if it is anything else.
  bool read_simple(JsonScanner& in, Item& item) {
    if (prefix_size_ > 0) return false;
    const bool pair = in.peek() == '[';
    const std::string_view rest = in.rest();
    const char* p = rest.data() + (pair ? 1 : 0);
    // Room for the longest token, and for reading two bytes at any place of it.
    const size_t room = std::min<size_t>(rest.size(), 512);
    const char* end = rest.data() + room - std::min<size_t>(room, 8);
    if (buffer_.size() < used_ + room + 8) buffer_.resize(used_ + room + 8);
    item.begin = used_;
    char* out = buffer_.data() + used_;
    const auto blanks = [&] {
      while (p < end && *p == ' ') ++p;
    };
    const auto take = [&](char c) {
      if (p >= end || *p != c) return false;
      ++p;
      return true;
    };
    const bool byte_mode = vocab_.byte_mode();
    const auto text = [&](char stop) {
      while (p < end) {
        const unsigned char c = static_cast<unsigned char>(*p);
        if (c == static_cast<unsigned char>(stop)) return ++p, true;
        if (c <= 0x20 || c == '"' || c == '\\') return false;
        if (byte_mode) {
          const int byte = Vocab::to_byte(p);
          if (byte < 0) return false;
          *out++ = static_cast<char>(byte);
        } else {
          *out++ = *p++;
        }
      }
      return false;
    };
    if (pair) blanks();
    if (!take('"') || !text(pair ? '"' : ' ')) return false;
    item.middle = static_cast<size_t>(out - buffer_.data());
    if (pair) {
      blanks();
      if (!take(',')) return false;
      blanks();
      if (!take('"')) return false;
    }
    if (!text('"')) return false;
    if (pair) {
      blanks();
      if (!take(']')) return false;
    }
    item.end = used_ = static_cast<size_t>(out - buffer_.data());
    item.plain = true;
    in.advance(static_cast<size_t>(p - rest.data()));
    return true;
  }

  void append(std::string_view text) {
    if (buffer_.size() < used_ + text.size() + 8) buffer_.resize(used_ + text.size() + 8);
    std::memcpy(buffer_.data() + used_, text.data(), text.size());
    used_ += text.size();
  }

  /// False for a version line, which counts as no merge.
  bool read_any(JsonScanner& in, Item& item) {
    item.begin = used_;
    if (in.peek() == '"') {
      const std::string_view line = in.unchecked_string();
      if (line.starts_with("#version")) return false;
      const size_t blank = line.find(' ');
      if (blank == std::string_view::npos || line.find(' ', blank + 1) != std::string_view::npos)
        fail(line, "two tokens with one blank between");
      append(line.substr(0, blank));
      item.middle = used_;
      append(line.substr(blank + 1));
    } else {
      int n = 0;
      in.array([&] {
        append(in.unchecked_string());
        if (++n == 1) item.middle = used_;
      });
      if (n != 2) fail(part(item.begin, used_), "two tokens");
    }
    item.end = used_;
    item.plain = prefix_size_ == 0;
    if (vocab_.byte_mode()) {
      std::string bytes(item.end - item.begin, '\0');
      size_t left = 0, right = 0;
      item.plain = Vocab::to_bytes(part(item.begin, item.middle), bytes.data(), &left) &&
                   Vocab::to_bytes(part(item.middle, item.end), bytes.data() + left, &right);
      if (item.plain) {  // in place: bytes are never longer than their spelling
        std::memcpy(buffer_.data() + item.begin, bytes.data(), left + right);
        item.middle = item.begin + left;
        item.end = used_ = item.middle + right;
      }
    }
    return true;
  }

  [[noreturn]] void fail(std::string_view what, std::string_view expected) const {
    std::string shown;
    append_lossy(shown, what.substr(0, 60), false);
    throw Error(where_ + ": merges: near number " + std::to_string(rows_.size()) + ": '" + shown + "': expected " +
                std::string(expected));
  }

  std::string_view part(size_t begin, size_t end) const { return std::string_view(buffer_).substr(begin, end - begin); }

  void prepare(Item& item) const {
    if (!item.plain) return;
    const std::string_view left = part(item.begin, item.middle), right = part(item.middle, item.end);
    item.left = key_of_padded(left);
    item.right = key_of_padded(right);
    vocab_.prefetch(left, item.left);
    vocab_.prefetch(right, item.right);
  }

  void resolve() {
    for (size_t i = 0; i < n_items_; ++i) prepare(items_[i]);
    for (size_t i = 0; i < n_items_; ++i) add(items_[i]);
    n_items_ = 0;
    used_ = 0;
  }

  void add(const Item& item) {
    const std::string_view left = part(item.begin, item.middle), right = part(item.middle, item.end);
    if (right.size() < prefix_size_) fail(right, "a right part that begins with continuing_subword_prefix");
    if (rows_.size() == MergeTable::max_merges) throw Error(where_ + ": merges: expected at most 10000000");
    MergeTable::Row row;
    if (item.plain)
      row = {vocab_.find_text(left, item.left), vocab_.find_text(right, item.right),
             result(part(item.begin, item.end))};
    else
      row = {vocab_.find(left), vocab_.find(right), vocab_.find(std::string(left).append(right.substr(prefix_size_)))};
    if (row.left < 0 || row.right < 0) fail(row.left < 0 ? left : right, "a token of the vocabulary");
    if (row.id < 0) fail(part(item.begin, item.end), "to make a token of the vocabulary");
    rows_.push_back(row);
  }

  // Files list merges in the order of the tokens that they make, some of them in several ways.
  int32_t result(std::string_view text) {
    for (int32_t guess = guess_; guess <= guess_ + 1; ++guess)
      if (vocab_.has(guess) && vocab_.text(guess) == text && vocab_.is_bytes(guess) == vocab_.byte_mode())
        return guess_ = guess;
    const int32_t id = vocab_.find_text(text);
    if (id >= 0) guess_ = id;
    return id;
  }

  const Vocab& vocab_;
  const std::string& where_;
  size_t prefix_size_;
  std::string buffer_;  // used_ bytes of it, and 8 more at least
  size_t used_ = 0;
  Item items_[kBatch];
  size_t n_items_ = 0;
  std::vector<MergeTable::Row> rows_;
  int32_t guess_ = 0;
};

/// tokenizer.json's "model". Members may come in any order; vocabulary and merges wait until what they depend on is
/// known.
class ModelReader {
 public:
  ModelReader(const std::string& where, bool bytes_wanted) : where_(where), bytes_wanted_(bytes_wanted) {}

  Bpe read(JsonScanner& in) {
    std::string_view vocab, merges;
    in.object([&](std::string_view key_view) {
      const std::string key(key_view);
      if (!seen_.insert(key).second) throw Error(where_ + ": model: expected '" + key + "' once");
      if (key == "type") {
        type_ = in.string();
        if (type_ != "BPE") throw Error(where_ + ": model: expected type BPE, got '" + type_ + "'");
      } else if (key == "dropout") {
        const std::string_view value = in.skip();
        if (value != "null" && value != "0" && value != "0.0")
          throw Error(where_ + ": model: dropout: expected null or 0, got " + std::string(value.substr(0, 20)));
      } else if (key == "unk_token") {
        options_.unk_token = optional_string(in);
      } else if (key == "continuing_subword_prefix") {
        options_.continuing_subword_prefix = optional_string(in).value_or("");
      } else if (key == "end_of_word_suffix") {
        options_.end_of_word_suffix = optional_string(in).value_or("");
      } else if (key == "fuse_unk") {
        options_.fuse_unk = optional_bool(in);
      } else if (key == "byte_fallback") {
        options_.byte_fallback = optional_bool(in);
      } else if (key == "ignore_merges") {
        options_.ignore_merges = optional_bool(in);
      } else if (key == "vocab") {
        // The usual order of members; anything else costs a second walk.
        if (type_ == "BPE" && seen_.contains("byte_fallback") && seen_.contains("end_of_word_suffix"))
          read_vocab(in);
        else
          vocab = in.skip();
      } else if (key == "merges") {
        if (bpe_)
          rows_ = MergeReader(*bpe_, where_).read(in);
        else
          merges = in.skip();
      } else {
        in.skip();
      }
    });
    if (!seen_.contains("vocab")) throw Error(where_ + ": model: expected a field 'vocab'");
    if (!seen_.contains("merges")) throw Error(where_ + ": model: expected a field 'merges' (type BPE)");
    if (!bpe_) {
      JsonScanner again(vocab, where_ + ": model.vocab");
      read_vocab(again);
    }
    if (!merges.empty()) {
      JsonScanner again(merges, where_ + ": model.merges");
      rows_ = MergeReader(*bpe_, where_).read(again);
    }
    bpe_->finish(rows_, options_.ignore_merges);
    return std::move(*bpe_);
  }

 private:
  void read_vocab(JsonScanner& in) {
    const bool byte_mode = bytes_wanted_ && !options_.byte_fallback && options_.continuing_subword_prefix.empty() &&
                           options_.end_of_word_suffix.empty();
    Vocab vocab(byte_mode, in.rest().size());
    in.object_with_unchecked_keys([&](std::string_view token) {
      // The key may lie in the scanner's buffer; a number does not disturb it.
      const int64_t id = in.integer();
      const auto fail = [&](const std::string& expected) {
        std::string shown;
        append_lossy(shown, token.substr(0, 60), false);
        throw Error(where_ + ": model.vocab: '" + shown + "': expected " + expected);
      };
      if (id < 0 || id > kMaxTokenId) fail("an id from 0 to 10000000, got " + std::to_string(id));
      if (!vocab.add(token, static_cast<int32_t>(id))) fail("an id of its own, got " + std::to_string(id) + " again");
      if (!vocab.is_bytes(static_cast<int32_t>(id)) && !is_valid_utf8(token)) fail("UTF-8");
    });
    if (const int32_t twice = vocab.index(); twice >= 0)
      throw Error(where_ + ": model.vocab: expected each token once, got '" + vocab.spelling(twice) + "' again");
    bpe_.emplace(options_, std::move(vocab));
  }

  const std::string& where_;
  bool bytes_wanted_;
  std::set<std::string> seen_;
  std::string type_ = "";
  BpeOptions options_;
  std::optional<Bpe> bpe_;
  std::vector<MergeTable::Row> rows_;
};

// --- tokenizer.json ---

Pipeline read_tokenizer_json(const std::string& path) {
  const MappedFile file = map_file(path);
  JsonScanner in(text_of(file), path);
  Pipeline out;
  std::vector<AddedToken> added;
  std::set<std::string> seen;
  std::string_view model;
  const auto component = [&](const char* name) {
    const std::string_view text = in.skip();
    if (text.size() > kMaxComponentBytes) throw Error(path + ": " + name + ": expected at most 16 MiB");
    return parse_json(text, path + ": " + name);
  };
  const auto read_model = [&](JsonScanner& from) {
    out.model.emplace(ModelReader(path, out.pre_tokenizer.ends_in_bytes()).read(from));
  };
  in.object([&](std::string_view key_view) {
    const std::string key(key_view);
    if (!seen.insert(key).second) throw Error(path + ": expected '" + key + "' once");
    if (key == "added_tokens") {
      in.array([&] {
        if (added.size() == kMaxAddedTokens) throw Error(path + ": added_tokens: expected at most 1000000");
        added.push_back(read_added_token(in));
      });
    } else if (key == "normalizer") {
      out.normalizer = NormalizerChain::from_json(component("normalizer"));
    } else if (key == "pre_tokenizer") {
      out.pre_tokenizer = PreTokenizerChain::from_json(component("pre_tokenizer"));
    } else if (key == "post_processor") {
      out.post_processor = PostProcessor::from_json(component("post_processor"));
    } else if (key == "decoder") {
      out.decoder = DecoderSpec::from_json(component("decoder"));
    } else if (key == "model" && seen.contains("pre_tokenizer")) {
      read_model(in);
    } else if (key == "model") {
      model = in.skip();
    } else {
      in.skip();
    }
  });
  in.finish();
  if (!seen.contains("model")) throw Error(path + ": expected a field 'model'");
  if (!seen.contains("decoder")) out.decoder = DecoderSpec::from_json(nullptr);
  if (!out.model) {
    JsonScanner again(model, path + ": model");
    read_model(again);
  }
  if (out.model->vocab().byte_mode()) out.pre_tokenizer.leave_bytes();
  for (const AddedToken& token : added) out.added.add(token, out.model->vocab());
  return out;
}

// --- tokenizer_config.json and special_tokens_map.json ---

/// What Transformers adds to the tokenizer.json's own tokens.
struct ConfigTokens {
  std::vector<std::pair<int64_t, AddedToken>> decoder;  // added_tokens_decoder
  bool has_decoder = false;
  std::vector<std::pair<std::string, AddedToken>> named;  // bos_token and so on
  std::vector<AddedToken> extra;                          // extra_special_tokens, additional_special_tokens
  int64_t model_max_length = 0;

  void set(const std::string& name, AddedToken token) {
    for (auto& [known, value] : named)
      if (known == name) return void(value = std::move(token));
    named.emplace_back(name, std::move(token));
  }
  std::string content(std::string_view name) const {
    for (const auto& [known, value] : named)
      if (known == name) return value.content;
    return {};
  }
};

// A string, or an object; null and other things count as absent.
std::optional<AddedToken> read_special_token(JsonScanner& in) {
  AddedToken token;
  if (in.peek() == '"') {
    token.content = in.string();
    token.normalized = false;
  } else if (in.peek() == '{') {
    token = read_added_token(in);
  } else {
    in.skip();
    return std::nullopt;
  }
  token.special = true;
  return token;
}

void read_extra_tokens(JsonScanner& in, ConfigTokens& out) {
  if (in.peek() == '[') {
    in.array([&] {
      if (auto token = read_special_token(in)) out.extra.push_back(std::move(*token));
    });
  } else if (in.peek() == '{') {
    in.object([&](std::string_view key) {
      const std::string name(key);
      if (auto token = read_special_token(in)) out.set(name, std::move(*token));
    });
  } else {
    in.skip();
  }
}

void read_config(const std::string& path, ConfigTokens& out) {
  const MappedFile file = map_file(path);
  JsonScanner in(text_of(file), path);
  in.object([&](std::string_view key_view) {
    const std::string key(key_view);
    if (key == "added_tokens_decoder" && in.peek() == '{') {
      out.has_decoder = true;
      in.object([&](std::string_view id) {
        if (id.empty() || id.size() > 9 || id.find_first_not_of("0123456789") != std::string_view::npos)
          throw Error(path + ": added_tokens_decoder: expected an id, got '" + std::string(id.substr(0, 40)) + "'");
        const int64_t number = std::stoll(std::string(id));
        if (out.decoder.size() == kMaxAddedTokens)
          throw Error(path + ": added_tokens_decoder: expected at most 1000000 tokens");
        out.decoder.emplace_back(number, read_added_token(in));
      });
    } else if (key == "extra_special_tokens" || key == "additional_special_tokens") {
      read_extra_tokens(in, out);
    } else if (key.ends_with("_token") && (in.peek() == '"' || in.peek() == '{')) {
      if (auto token = read_special_token(in)) out.set(key, std::move(*token));
    } else if (key == "model_max_length") {
      // Transformers writes 1e30 in one way or another for "no limit".
      const Json value = parse_json(in.skip(), path);
      const double length = value.is_number() ? value.get<double>() : 0;
      out.model_max_length = length >= 1 && length < 1e15 ? static_cast<int64_t>(length) : 0;
    } else {
      in.skip();
    }
  });
  in.finish();
  std::stable_sort(out.decoder.begin(), out.decoder.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
}

// In Transformers' order: the tokens of the list that tokenizer.json does not have with the same flags, then named ones
// that are not added tokens yet.
void add_config_tokens(const ConfigTokens& config, Pipeline& out) {
  const Vocab& vocab = out.model->vocab();
  for (const auto& [id, token] : config.decoder) {
    const AddedToken* known = out.added.by_id(out.added.find(token.content));
    if (known == nullptr || !(*known == token)) out.added.add(token, vocab);
  }
  const auto add_if_new = [&](const AddedToken& token) {
    if (out.added.find(token.content) < 0) out.added.add(token, vocab);
  };
  for (const auto& [name, token] : config.named) add_if_new(token);
  for (const AddedToken& token : config.extra) add_if_new(token);
}

bool file_exists(const std::string& path) {
  std::error_code ignored;
  return find_builtin_file(path) != nullptr || std::filesystem::exists(path, ignored);
}

}  // namespace

Pipeline load_pipeline(const std::string& directory) {
  const std::string path = directory + "/tokenizer.json";
  if (!file_exists(path))
    throw Error(path + ": expected a tokenizer, got no such file",
                "only models with a tokenizer.json can be used; Transformers' save_pretrained writes one");
  Pipeline out = in_file(path, [&] { return read_tokenizer_json(path); });
  ConfigTokens config;
  const std::string config_path = directory + "/tokenizer_config.json",
                    map_path = directory + "/special_tokens_map.json";
  if (file_exists(config_path)) in_file(config_path, [&] { read_config(config_path, config); });
  // Transformers reads this older file only where the newer list is missing; it then wins.
  if (!config.has_decoder && file_exists(map_path)) in_file(map_path, [&] { read_config(map_path, config); });
  in_file(config_path, [&] { add_config_tokens(config, out); });
  out.bos_token = config.content("bos_token");
  out.eos_token = config.content("eos_token");
  out.pad_token = config.content("pad_token");
  out.unk_token = config.content("unk_token");
  out.model_max_length = config.model_max_length;

  out.added.finish(out.normalizer);
  std::vector<bool> control(static_cast<size_t>(out.added.limit()));
  out.added.for_each(
      [&](int32_t id, const AddedToken& token) { control[static_cast<size_t>(id)] = AddedTokens::is_control(token); });
  out.model->set_control_ids(std::move(control));
  return out;
}

}  // namespace engine::tok
