#include "runtime/generation_config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace engine {
namespace {

// Bounds on lists from outside; far above what anybody needs.
constexpr size_t max_stop_strings = 256;
constexpr size_t max_stop_string_bytes = 4096;
constexpr size_t max_list_ids = 1 << 20;
constexpr int64_t max_count = int64_t{1} << 48;
constexpr int64_t default_new_tokens = 20;  // Transformers' max_length = 20 counts new tokens when nobody set it

/// What is being read, for messages: "FILE: temperature" or "temperature".
struct Place {
  std::string_view where;
  std::string_view key;
  bool lenient;

  std::string name() const { return where.empty() ? std::string(key) : std::string(where) + ": " + std::string(key); }
  [[noreturn]] void fail(const std::string& expected, const Json& got, std::string hint = {}) const {
    std::string text = dump_json(got);
    if (text.size() > 60) text = text.substr(0, 57) + "...";
    throw Error(name() + ": expected " + expected + ", got " + text, std::move(hint));
  }
};

struct Range {
  double low, high;
  bool open_low;         // low itself is out
  const char* expected;  // in words
};

double read_number(const Json& value, const Place& place, const Range& range) {
  if (!value.is_number()) place.fail(range.expected, value);
  const double x = value.get<double>();
  const bool inside = std::isfinite(x) && (range.open_low ? x > range.low : x >= range.low) && x <= range.high;
  if (!inside) place.fail(range.expected, value);
  return x;
}

int64_t read_integer(const Json& value, const Place& place, int64_t low, const char* hint = "") {
  const std::string expected = "an integer of at least " + std::to_string(low);
  if (!value.is_number_integer()) place.fail(expected, value);
  const bool too_big = value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(max_count);
  if (too_big) place.fail("an integer of at most " + std::to_string(max_count), value);
  const int64_t x = value.get<int64_t>();
  if (x < low) place.fail(expected, value, hint);
  return x;
}

int32_t read_id(const Json& value, const Place& place) {
  const bool fits = value.is_number_integer() && value.get<int64_t>() >= 0 &&
                    value.get<int64_t>() <= std::numeric_limits<int32_t>::max();
  if (!fits) place.fail("a token id", value);
  return value.get<int32_t>();
}

bool is_negative_id(const Json& value) { return value.is_number_integer() && value.get<int64_t>() < 0; }

std::vector<int32_t> read_ids(const Json& value, const Place& place, bool single_allowed) {
  std::vector<int32_t> ids;
  if (single_allowed && value.is_number()) {
    // Old files say -1 for "there is none"; Transformers warns and never stops on it.
    if (!(place.lenient && is_negative_id(value))) ids.push_back(read_id(value, place));
    return ids;
  }
  if (!value.is_array()) place.fail(single_allowed ? "a token id or a list of them" : "a list of token ids", value);
  if (value.size() > max_list_ids) throw Error(place.name() + ": expected at most " + std::to_string(max_list_ids) + " ids");
  for (const Json& item : value) {
    if (place.lenient && is_negative_id(item)) continue;
    ids.push_back(read_id(item, place));
  }
  return ids;
}

std::vector<std::vector<int32_t>> read_id_lists(const Json& value, const Place& place) {
  if (!value.is_array()) place.fail("a list of lists of token ids", value);
  std::vector<std::vector<int32_t>> lists;
  size_t total = 0;
  for (const Json& item : value) {
    if (!item.is_array() || item.empty()) place.fail("a list of lists of token ids, none of them empty", value);
    total += item.size();
    if (total > max_list_ids) throw Error(place.name() + ": expected at most " + std::to_string(max_list_ids) + " ids");
    lists.emplace_back();
    for (const Json& id : item) lists.back().push_back(read_id(id, place));
  }
  return lists;
}

std::vector<std::string> read_strings(const Json& value, const Place& place) {
  std::vector<std::string> strings;
  const auto add = [&](const Json& item) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty()) place.fail("a string or a list of strings, none empty", value);
    if (item.get_ref<const std::string&>().size() > max_stop_string_bytes || strings.size() == max_stop_strings) {
      throw Error(place.name() + ": expected at most " + std::to_string(max_stop_strings) + " strings of at most " +
                  std::to_string(max_stop_string_bytes) + " bytes");
    }
    strings.push_back(item.get<std::string>());
  };
  if (value.is_array()) {
    for (const Json& item : value) add(item);
  } else {
    add(value);
  }
  return strings;
}

bool read_bool(const Json& value, const Place& place) {
  if (!value.is_boolean()) place.fail("true or false", value);
  return value.get<bool>();
}

constexpr double huge = std::numeric_limits<double>::max();
constexpr Range any_temperature{0, huge, false, "a number of at least 0"};
constexpr Range unit{0, 1, false, "a number from 0 to 1"};
constexpr Range open_unit{0, 1, true, "a number above 0 and at most 1"};
constexpr Range cutoff{0, std::nextafter(1.0, 0.0), false, "a number from 0 to below 1"};
constexpr Range positive{0, huge, true, "a number above 0"};
constexpr Range seconds{0, huge, false, "a number of seconds of at least 0"};

const char* const top_k_hint = "top_k=0 switches it off";

/// One setting: how to read it, what None means, how to write it.
struct Field {
  const char* name;
  void (*read)(GenerationConfig&, const Json&, const Place&);
  void (*clear)(GenerationConfig&);  // what generate(name=None) does: off
  Json (*write)(const GenerationConfig&);
  bool is_text = false;              // a bare word on the command line is a string
};

using C = GenerationConfig;

Json from_ids(const std::vector<int32_t>& ids) { return ids.empty() ? Json() : Json(ids); }
template <class T>
Json from_optional(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}
std::optional<int32_t> read_optional_id(const Json& value, const Place& place) {
  if (place.lenient && is_negative_id(value)) return std::nullopt;
  return read_id(value, place);
}

// clang-format off
const Field fields[] = {
  {"max_new_tokens", [](C& c, const Json& v, const Place& p) { c.max_new_tokens = read_integer(v, p, 1); },
                     [](C& c) { c.max_new_tokens.reset(); }, [](const C& c) { return from_optional(c.max_new_tokens); }},
  {"max_length", [](C& c, const Json& v, const Place& p) { c.max_length = read_integer(v, p, 1); },
                 [](C& c) { c.max_length = max_count; }, [](const C& c) { return from_optional(c.max_length); }},
  {"min_new_tokens", [](C& c, const Json& v, const Place& p) { c.min_new_tokens = read_integer(v, p, 0); },
                     [](C& c) { c.min_new_tokens.reset(); }, [](const C& c) { return from_optional(c.min_new_tokens); }},
  {"min_length", [](C& c, const Json& v, const Place& p) { c.min_length = read_integer(v, p, 0); },
                 [](C& c) { c.min_length = 0; }, [](const C& c) { return Json(c.min_length); }},
  {"max_time", [](C& c, const Json& v, const Place& p) { c.max_time = read_number(v, p, seconds); },
               [](C& c) { c.max_time.reset(); }, [](const C& c) { return from_optional(c.max_time); }},
  {"stop_strings", [](C& c, const Json& v, const Place& p) { c.stop_strings = read_strings(v, p); },
                   [](C& c) { c.stop_strings.clear(); },
                   [](const C& c) { return c.stop_strings.empty() ? Json() : Json(c.stop_strings); }, true},
  {"do_sample", [](C& c, const Json& v, const Place& p) { c.do_sample = read_bool(v, p); },
                [](C& c) { c.do_sample = false; }, [](const C& c) { return Json(c.do_sample); }},
  {"temperature", [](C& c, const Json& v, const Place& p) { c.temperature = read_number(v, p, any_temperature); },
                  [](C& c) { c.temperature = 1; }, [](const C& c) { return Json(c.temperature); }},
  {"top_k", [](C& c, const Json& v, const Place& p) { c.top_k = read_integer(v, p, 0, top_k_hint); },
            [](C& c) { c.top_k = 0; }, [](const C& c) { return Json(c.top_k); }},
  {"top_p", [](C& c, const Json& v, const Place& p) { c.top_p = read_number(v, p, unit); },
            [](C& c) { c.top_p = 1; }, [](const C& c) { return Json(c.top_p); }},
  {"min_p", [](C& c, const Json& v, const Place& p) { c.min_p = read_number(v, p, unit); },
            [](C& c) { c.min_p.reset(); }, [](const C& c) { return from_optional(c.min_p); }},
  {"typical_p", [](C& c, const Json& v, const Place& p) { c.typical_p = read_number(v, p, open_unit); },
                [](C& c) { c.typical_p = 1; }, [](const C& c) { return Json(c.typical_p); }},
  {"epsilon_cutoff", [](C& c, const Json& v, const Place& p) { c.epsilon_cutoff = read_number(v, p, cutoff); },
                     [](C& c) { c.epsilon_cutoff = 0; }, [](const C& c) { return Json(c.epsilon_cutoff); }},
  {"eta_cutoff", [](C& c, const Json& v, const Place& p) { c.eta_cutoff = read_number(v, p, cutoff); },
                 [](C& c) { c.eta_cutoff = 0; }, [](const C& c) { return Json(c.eta_cutoff); }},
  {"repetition_penalty", [](C& c, const Json& v, const Place& p) { c.repetition_penalty = read_number(v, p, positive); },
                         [](C& c) { c.repetition_penalty = 1; }, [](const C& c) { return Json(c.repetition_penalty); }},
  {"no_repeat_ngram_size", [](C& c, const Json& v, const Place& p) { c.no_repeat_ngram_size = read_integer(v, p, 0); },
                           [](C& c) { c.no_repeat_ngram_size = 0; }, [](const C& c) { return Json(c.no_repeat_ngram_size); }},
  {"bad_words_ids", [](C& c, const Json& v, const Place& p) { c.bad_words_ids = read_id_lists(v, p); },
                    [](C& c) { c.bad_words_ids.clear(); },
                    [](const C& c) { return c.bad_words_ids.empty() ? Json() : Json(c.bad_words_ids); }},
  {"suppress_tokens", [](C& c, const Json& v, const Place& p) { c.suppress_tokens = read_ids(v, p, false); },
                      [](C& c) { c.suppress_tokens.clear(); }, [](const C& c) { return from_ids(c.suppress_tokens); }},
  {"begin_suppress_tokens", [](C& c, const Json& v, const Place& p) { c.begin_suppress_tokens = read_ids(v, p, false); },
                            [](C& c) { c.begin_suppress_tokens.clear(); },
                            [](const C& c) { return from_ids(c.begin_suppress_tokens); }},
  {"bos_token_id", [](C& c, const Json& v, const Place& p) { c.bos_token_id = read_optional_id(v, p); },
                   [](C& c) { c.bos_token_id.reset(); }, [](const C& c) { return from_optional(c.bos_token_id); }},
  {"pad_token_id", [](C& c, const Json& v, const Place& p) { c.pad_token_id = read_optional_id(v, p); },
                   [](C& c) { c.pad_token_id.reset(); }, [](const C& c) { return from_optional(c.pad_token_id); }},
  {"eos_token_id", [](C& c, const Json& v, const Place& p) { c.eos_token_id = read_ids(v, p, true); },
                   [](C& c) { c.eos_token_id.clear(); },
                   [](const C& c) { return c.eos_token_id.size() == 1 ? Json(c.eos_token_id[0]) : from_ids(c.eos_token_id); }},
  {"seed", [](C& c, const Json& v, const Place& p) {
             if (!v.is_number_integer() || (!v.is_number_unsigned() && v.get<int64_t>() < 0)) {
               p.fail("an integer from 0 to 2^64 - 1", v);
             }
             c.seed = v.get<uint64_t>();
           },
           [](C& c) { c.seed.reset(); }, [](const C& c) { return from_optional(c.seed); }},
};
// clang-format on

/// A field of Transformers' that has no counterpart here. At a neutral value nothing is lost; with `changes_output` any other value would give
/// another text than Transformers, so that it is refused even in a model's own file.
struct Foreign {
  const char* name;
  const char* neutral;  // JSON list of the values that change nothing; null is always one
  bool changes_output;
};

const Foreign foreign_fields[] = {
    // Other ways to search or to score.
    {"num_beams", "[1]", true},
    {"num_beam_groups", "[1]", true},
    {"diversity_penalty", "[0, 0.0]", true},
    {"num_return_sequences", "[1]", true},
    {"constraints", "[]", true},
    {"force_words_ids", "[]", true},
    {"penalty_alpha", "[0, 0.0]", true},
    {"dola_layers", "[]", true},
    {"guidance_scale", "[1, 1.0]", true},
    {"top_h", "[]", true},
    {"sequence_bias", "[[], {}]", true},
    {"encoder_repetition_penalty", "[1, 1.0]", true},
    {"encoder_no_repeat_ngram_size", "[0]", true},
    {"forced_bos_token_id", "[]", true},
    {"forced_eos_token_id", "[]", true},
    {"remove_invalid_values", "[false]", true},
    {"exponential_decay_length_penalty", "[]", true},
    {"watermarking_config", "[]", true},
    {"token_healing", "[false]", true},
    // These change nothing that is generated: how it is computed, or what is handed back.
    {"length_penalty", "[1, 1.0]", false},  // beams only
    {"early_stopping", "[false]", false},   // beams only
    {"renormalize_logits", "[false]", false},
    {"use_cache", "[true]", false},
    {"cache_implementation", "[]", false},
    {"cache_config", "[]", false},
    {"low_memory", "[false]", false},
    {"output_attentions", "[false]", false},
    {"output_hidden_states", "[false]", false},
    {"output_scores", "[false]", false},
    {"output_logits", "[false]", false},
    {"return_dict_in_generate", "[false]", false},
    {"decoder_start_token_id", "[]", false},
    {"is_assistant", "[false]", false},
    {"num_assistant_tokens", "[20]", false},
    {"num_assistant_tokens_schedule", "[\"constant\"]", false},
    {"assistant_confidence_threshold", "[0.4]", false},
    {"prompt_lookup_num_tokens", "[]", false},
    {"max_matching_ngram_size", "[]", false},
    {"assistant_early_exit", "[]", false},
    {"assistant_lookbehind", "[10]", false},
    {"target_lookbehind", "[10]", false},
    {"compile_config", "[]", false},
    {"disable_compile", "[false]", false},
    {"continuous_batching_config", "[]", false},
    {"prefill_chunk_size", "[]", false},
};

/// Notes that Transformers writes into the file, never settings.
bool is_metadata(std::string_view key) { return key == "transformers_version" || key.substr(0, 1) == "_"; }

const Field* find_field(std::string_view key) {
  const auto it = std::find_if(std::begin(fields), std::end(fields), [&](const Field& f) { return f.name == key; });
  return it == std::end(fields) ? nullptr : it;
}

const Foreign* find_foreign(std::string_view key) {
  const auto it =
      std::find_if(std::begin(foreign_fields), std::end(foreign_fields), [&](const Foreign& f) { return f.name == key; });
  return it == std::end(foreign_fields) ? nullptr : it;
}

void check_foreign(const Foreign& foreign, const Json& value, const Place& place) {
  if (place.lenient && !foreign.changes_output) return;
  const Json neutral = parse_json(foreign.neutral, foreign.name);
  for (const Json& item : neutral) {
    if (value == item) return;
  }
  place.fail(neutral.empty() ? "null (it is not supported here)" : dump_json(neutral[0]) + " (others are not supported here)", value);
}

[[noreturn]] void unknown_key(const Place& place) {
  const std::string near = nearest_word(place.key, GenerationConfig::keys());
  throw Error(place.name() + ": expected a generation setting, got an unknown name",
              near.empty() ? "the settings are those of Transformers' GenerationConfig" : "did you mean " + near + "?");
}

void apply_one(GenerationConfig& config, const Json& value, const Place& place) {
  if (const Field* field = find_field(place.key)) {
    if (!value.is_null()) field->read(config, value, place);
  } else if (const Foreign* foreign = find_foreign(place.key)) {
    if (!value.is_null()) check_foreign(*foreign, value, place);
  } else if (!place.lenient && !is_metadata(place.key)) {
    unknown_key(place);
  }
}

// --- literals of the command line ------------------------------------------------------------------------------------------

/// Reads a value as Python or JSON would write it: None, True, 1e-5, [1, 2], ["a", 'b'], "a b". A bare word is a string.
class Literal {
 public:
  Literal(std::string_view text, const Place& place) : text_(text), place_(place) {}

  Json parse() {
    Json value = parse_value(0);
    skip_blanks();
    if (at_ != text_.size()) fail();
    return value;
  }

 private:
  [[noreturn]] void fail() const { place_.fail("a number, true, false, None, a string or a list", Json(std::string(text_))); }
  void skip_blanks() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n')) ++at_;
  }
  bool take(char c) {
    skip_blanks();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  Json parse_value(int depth) {
    skip_blanks();
    if (depth > 4 || at_ == text_.size()) fail();
    const char c = text_[at_];
    if (c == '[' || c == '(') return parse_list(c == '[' ? ']' : ')', depth);
    if (c == '"' || c == '\'') return parse_string(c);
    const size_t end = std::min(text_.find_first_of(",])", at_), text_.size());
    std::string_view word = text_.substr(at_, end - at_);
    while (!word.empty() && word.back() == ' ') word.remove_suffix(1);
    if (word.empty()) fail();
    at_ = end;
    return parse_word(word);
  }

  Json parse_list(char close, int depth) {
    Json list = Json::array();
    ++at_;
    if (take(close)) return list;
    do {
      list.push_back(parse_value(depth + 1));
    } while (take(','));
    if (!take(close)) fail();
    return list;
  }

  Json parse_string(char quote) {
    std::string out;
    for (++at_; at_ < text_.size(); ++at_) {
      char c = text_[at_];
      if (c == quote) {
        ++at_;
        return out;
      }
      if (c == '\\' && at_ + 1 < text_.size()) {
        c = text_[++at_];
        const std::string_view names = "ntr0", values("\n\t\r\0", 4);
        if (const size_t i = names.find(c); i != names.npos) c = values[i];
        else if (c != quote && c != '\\') out += '\\';
      }
      out += c;
    }
    fail();
  }

  static Json parse_word(std::string_view word) {
    std::string lower(word);
    for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    if (lower == "none" || lower == "null") return nullptr;
    if (lower == "true") return true;
    if (lower == "false") return false;
    const char* begin = word.data() + (word[0] == '+' && word.size() > 1);
    const char* end = word.data() + word.size();
    if (uint64_t u; std::from_chars(begin, end, u).ptr == end && std::from_chars(begin, end, u).ec == std::errc()) return u;
    if (int64_t i; std::from_chars(begin, end, i).ptr == end && std::from_chars(begin, end, i).ec == std::errc()) return i;
    double x;
    const auto [ptr, error] = std::from_chars(begin, end, x);
    if (ptr == end && error == std::errc()) return std::isfinite(x) ? Json(x) : Json(std::string(word));
    return std::string(word);
  }

  std::string_view text_;
  const Place& place_;
  size_t at_ = 0;
};

}  // namespace

void GenerationConfig::apply(const Json& object, std::string_view where, bool lenient) {
  if (!object.is_object()) throw Error(std::string(where) + ": expected a JSON object of generation settings, got " + object.type_name());
  GenerationConfig changed = *this;
  for (const auto& [key, value] : object.items()) apply_one(changed, value, Place{where, key, lenient});
  *this = std::move(changed);
}

void GenerationConfig::set(std::string_view key, std::string_view value) {
  const Place place{"", key, false};
  const Field* field = find_field(key);
  // A string's text is taken as it stands, unless it is quoted, a list or None.
  const bool bare_text = field != nullptr && field->is_text && !value.empty() && value != "None" && value != "null" &&
                         std::string_view("[\"'").find(value[0]) == std::string_view::npos;
  const Json parsed = bare_text ? Json(std::string(value)) : Literal(value, place).parse();
  if (field != nullptr && parsed.is_null()) {
    field->clear(*this);
    return;
  }
  apply_one(*this, parsed, place);
}

Json GenerationConfig::to_json() const {
  Json object = Json::object();
  for (const Field& field : fields) object[field.name] = field.write(*this);
  return object;
}

std::vector<std::string> GenerationConfig::keys() {
  std::vector<std::string> names;
  for (const Field& field : fields) names.emplace_back(field.name);
  return names;
}

int64_t GenerationConfig::new_token_limit(int64_t n_prompt, int64_t context) const {
  int64_t limit = default_new_tokens;
  if (max_new_tokens) {
    limit = *max_new_tokens;
  } else if (max_length) {
    limit = *max_length - n_prompt;
  }
  return std::min(limit, context - n_prompt);
}

bool GenerationConfig::is_eos(int32_t token) const {
  return std::find(eos_token_id.begin(), eos_token_id.end(), token) != eos_token_id.end();
}

std::string nearest_word(std::string_view word, const std::vector<std::string>& known) {
  std::string best;
  if (word.size() > 64) return best;
  size_t best_distance = std::max<size_t>(2, word.size() * 2 / 5) + 1;
  for (const std::string& candidate : known) {
    std::vector<size_t> row(candidate.size() + 1);
    for (size_t j = 0; j <= candidate.size(); ++j) row[j] = j;
    for (size_t i = 0; i < word.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i + 1;
      for (size_t j = 0; j < candidate.size(); ++j) {
        const size_t replaced = diagonal + (word[i] != candidate[j]);
        diagonal = row[j + 1];
        row[j + 1] = std::min({replaced, row[j] + 1, diagonal + 1});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

}  // namespace engine
