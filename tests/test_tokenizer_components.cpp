// Each component against goldens of the genuine library (tests/data/tokenizers, made by
// tools/make_tokenizer_goldens.py), and small whole tokenizers that put them together.
#include <doctest/doctest.h>

#include <fstream>
#include <random>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "support.h"
#include "text/tokenizer.h"
#include "text/tokenizer/decoder.h"
#include "text/tokenizer/normalizer.h"
#include "text/tokenizer/pre_tokenizer.h"
#include "text/tokenizer/regex.h"
#include "text/tokenizer/splitters.h"
#include "text/tokenizer/unicode.h"
#include "tokenizer_support.h"

using namespace engine;
using namespace engine::tok;
using Ids = std::vector<int32_t>;

namespace {

struct Collect final : PieceSink {
  std::vector<std::string> pieces;
  void take(const Piece& piece) override {
    if (!piece.text.empty()) pieces.emplace_back(piece.text);
  }
};

std::vector<std::string> pre_tokenize(const PreTokenizerChain& chain, std::string_view text) {
  Collect collect;
  Piece piece{text};
  piece.at_start = true;
  if (!text.empty()) chain.run(piece, collect);
  return collect.pieces;
}

std::string decode(const DecoderSpec& spec, const std::vector<std::string>& tokens) {
  DecodeStream stream = spec.stream();
  std::string out;
  for (const std::string& token : tokens) {
    stream.token(token);
    out += stream.take();
  }
  stream.finish();
  return out + stream.take();
}

}  // namespace

TEST_CASE("components") {
  int n_components = 0;
  for (const Json& line : test::read_json_lines(test::data_file("tokenizers/components.jsonl"))) {
    const std::string stage = line["stage"];
    INFO(stage, " ", line["component"].dump());
    ++n_components;
    for (const Json& c : line["cases"]) {
      INFO("input: ", c[0].dump());
      if (stage == "pre_tokenizer") {
        std::vector<std::string> expected = c[1];
        std::erase(expected, "");  // only the library's own call shows them; its pipeline drops them too
        CHECK(pre_tokenize(PreTokenizerChain::from_json(line["component"]), c[0].get<std::string>()) == expected);
      } else if (stage == "normalizer") {
        CHECK(NormalizerChain::from_json(line["component"]).apply(c[0].get<std::string>()) == c[1].get<std::string>());
      } else {
        CHECK(decode(DecoderSpec::from_json(line["component"]), c[0]) == c[1].get<std::string>());
      }
    }
  }
  CHECK(n_components > 90);
}

TEST_CASE("BPE models") {
  for (const Json& line : test::read_json_lines(test::data_file("tokenizers/models.jsonl"))) {
    INFO(line["model"].dump());
    const test::TokenizerDirectory directory(Json{{"model", line["model"]}});
    const Tokenizer tokenizer = directory.load();
    for (const Json& c : line["cases"]) {
      INFO("text: ", c[0].dump());
      CHECK(tokenizer.encode(c[0].get<std::string>(), false) == c[1].get<Ids>());
    }
  }
}

TEST_CASE("small whole tokenizers") {
  for (const char* name : {"byte_level", "byte_fallback", "metaspace", "split_after_bytes", "word_ends"})
    SUBCASE(name) { test::run_golden_directory(test::data_file(std::string("tokenizers/") + name)); }
}

// Hand-written splitters against the regex engine on text that is mostly edges.
TEST_CASE("known splitters do what their patterns do") {
  const char* patterns[] = {
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
      R"(\p{N}{1,3})",
      R"(\p{N})",
      "[一-龥぀-ゟ゠-ヿ]+",
      "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
      "?[\\p{P}\\p{S}]+[\r\n]*|"
      "\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
  };
  const char* parts[] = {"a",      "B",          "z",      " ",  "  ",     "\n", "\r",    "\t",     "'",      "'s",
                         "'LL",    "'ſ",         "1",      "23", ".",      "/",  "-",     "!",      "é",      "É",
                         "ß",      "ǅ",          "ʰ",      "中", "あ",     "ー", "가",    "\u0301", "\u200d", "\u00a0",
                         "\u3000", "\u0085",     "½",      "²",  "Ⅷ",      "१",  "🙂",  "。",     "\x01",   "\u0378",
                         "\u2028", "\U00010D4A", "\u1C8A", "𝒳",  "\u093E", "᾿",  "\uFFFD"};
  std::mt19937 random(1);
  for (const char* pattern : patterns) {
    INFO(pattern);
    const FindMatch find = known_splitter(pattern);
    REQUIRE(static_cast<bool>(find));
    const Regex regex(pattern);
    for (int i = 0; i < 4000; ++i) {
      std::string text;
      for (uint32_t n = 1 + random() % 14; n > 0; --n) text += parts[random() % std::size(parts)];
      INFO("text: ", Json(text).dump());
      Regex::Matcher matcher(regex, text);
      for (size_t from = 0; from < text.size();) {
        size_t begin = 0, end = 0, known_begin = 0, known_end = 0;
        const bool found = matcher.find(from, &begin, &end);
        REQUIRE(find(text, from, &known_begin, &known_end) == found);
        if (!found) break;
        REQUIRE(known_begin == begin);
        REQUIRE(known_end == end);
        from = end;
      }
    }
  }
  CHECK_FALSE(static_cast<bool>(known_splitter(R"(\p{L}+)")));
}

TEST_CASE("patterns that are wrong or not supported are named") {
  for (const char* pattern : {"[", "[a", "(", ")", "a{2}{", "\\", "\\p{Klingon}", "\\p{L", "[b-a]", "\\q", "[[:foo:]]",
                              "\\x{110000}", "\\ud800", "(?<=a*)b"}) {
    INFO(pattern);
    if (std::string_view(pattern) == "a{2}{") {
      CHECK_NOTHROW(Regex r(pattern));  // a brace that is no quantifier stands for itself
      continue;
    }
    CHECK_THROWS_AS(Regex r(pattern), Error);
  }
  CHECK_THROWS_AS(Regex(std::string(200'000, 'a')), Error);
  CHECK_THROWS_AS(Regex(std::string(5000, '(') + std::string(5000, ')')), Error);
  CHECK_THROWS_AS(Regex(std::string(5000, '[')), Error);
}

TEST_CASE("a pattern that backtracks without end is stopped") {
  const Regex regex("(a+)+$");
  const std::string text = std::string(60, 'a') + "b";
  Regex::Matcher matcher(regex, text);
  size_t begin, end;
  CHECK_THROWS_AS(matcher.find(0, &begin, &end), Error);
}

TEST_CASE("character classes of the library") {
  FIXTURE_OR_RETURN(path, "tokenizers/unicode/oniguruma_classes.json");
  const Json classes = read_json_file(path);
  const auto expected = [&](const char* name) {
    RangeSet out;
    for (const Json& r : classes[name]) out.emplace_back(r[0], r[1]);
    return range_union(out, {});
  };
  const auto where = [](auto&& test) {
    RangeSet out;
    for (uint32_t cp = 0; cp < kCodePoints; ++cp)
      if ((cp < 0xD800 || cp >= 0xE000) && test(cp)) out.emplace_back(cp, cp);
    return range_union(out, {});
  };
  struct Row {
    const char* name;
    CategoryMask mask;
  };
  const CategoryMask other =
      mask_of(Category::cn) | mask_of(Category::cc) | mask_of(Category::cf) | mask_of(Category::co);
  for (const Row& row :
       {Row{"\\p{L}", kLetters}, Row{"\\p{Lu}", mask_of(Category::lu)}, Row{"\\p{Ll}", mask_of(Category::ll)},
        Row{"\\p{Lt}", mask_of(Category::lt)}, Row{"\\p{Lm}", mask_of(Category::lm)},
        Row{"\\p{Lo}", mask_of(Category::lo)}, Row{"\\p{M}", kMarks}, Row{"\\p{N}", kNumbers},
        Row{"\\p{Nd}", mask_of(Category::nd)}, Row{"\\p{Nl}", mask_of(Category::nl)},
        Row{"\\p{No}", mask_of(Category::no)}, Row{"\\p{P}", kPunctuation}, Row{"\\p{S}", kSymbols},
        Row{"\\p{Z}", mask_between(Category::zs, Category::zp)}, Row{"\\p{C}", other},
        Row{"\\d", mask_of(Category::nd)}}) {
    INFO(row.name);
    CHECK(where([&](uint32_t cp) { return in_categories(cp, row.mask); }) == expected(row.name));
  }
  CHECK(where(is_white_space) == expected("\\s"));
  CHECK(where(is_white_space) == expected("added_token_strip"));
  CHECK(where(is_word) == expected("\\w"));
  CHECK(where(is_added_token_word) == expected("added_token_word_char"));
  CHECK(where(is_numeric) == expected("Digits"));
  CHECK(where(is_punctuation) == expected("Punctuation"));
}

TEST_CASE("normal forms of the library") {
  FIXTURE_OR_RETURN(path, "tokenizers/unicode/normalize.jsonl");
  const char* names[] = {"nfc", "nfd", "nfkc", "nfkd"};
  for (const Json& c : test::read_json_lines(path)) {
    for (int form = 0; form < 4; ++form) {
      PieceBuffer out;
      const std::string text = c["in"];
      const bool changed = make_unicode_normalizer(static_cast<NormalForm>(form))->apply(Piece{text}, out);
      INFO(names[form], " of ", c["in"].dump());
      CHECK((changed ? std::string(out.piece().text) : text) == c[names[form]].get<std::string>());
    }
  }
}

TEST_CASE("UTF-8") {
  struct Row {
    std::string_view in, out;
  };
  for (const Row& row :
       {Row{"", ""}, Row{"a\xC3\xA9", "a\xC3\xA9"}, Row{"\xFF", "\uFFFD"}, Row{"\xC0\x80", "\uFFFD\uFFFD"},
        Row{"\xE2\x82", "\uFFFD"}, Row{"\xE2\x82X", "\uFFFDX"}, Row{"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
        Row{"\xF0\x9F\x99", "\uFFFD"}, Row{"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
        Row{"\xF0\x80\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"}, Row{"\x80\x80z", "\uFFFD\uFFFDz"}}) {
    std::string out;
    CHECK(append_lossy(out, row.in, false) == 0);
    CHECK(out == row.out);
    CHECK(is_valid_utf8(row.in) == (row.in == row.out));
  }
  std::string out;
  CHECK(append_lossy(out, "a\xE2\x82", true) == 2);
  CHECK(out == "a");
}
