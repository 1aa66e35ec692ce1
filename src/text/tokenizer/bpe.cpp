#include "text/tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "text/tokenizer/unicode.h"

namespace engine::tok {
namespace {
constexpr std::string_view kBlank = "\xE2\x96\x81";  // U+2581, the blank of sentencepiece vocabularies

constexpr size_t kFewSymbols = 48;  // up to here scanning for the lowest rank beats a heap
}  // namespace

// --- merges ---

void MergeTable::build(const std::vector<Row>& rows) {
  multiplier_ = process_seed();
  slots_.reset(rows.size());
  constexpr size_t ahead = 16;  // rows looked ahead, to have their slots at hand
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i + ahead < rows.size()) prefetch(rows[i + ahead].left, rows[i + ahead].right);
    const Row& row = rows[i];
    const uint64_t key = key_of(row.left, row.right);
    const uint32_t id = static_cast<uint32_t>(row.id);
    slots_.find_or_free(hash_of(key), [&](const Slot& s) { return s.key() == key; }) = {
        static_cast<uint32_t>(key), id << 16 | static_cast<uint32_t>(key >> 32),
        static_cast<uint32_t>(i) << 8 | id >> 16};
  }
}

// --- memo ---

// One cache line: pre-tokens of up to 24 bytes and 9 ids. Direct-mapped, the newest wins.
struct BpeScratch::CacheEntry {
  static constexpr size_t max_bytes = 24, max_ids = 9;
  static constexpr int bits = 15;
  uint64_t key[3];
  uint8_t n_bytes;  // 0: free
  uint8_t n_ids;
  int32_t ids[max_ids];
};

void BpeScratch::FreeDeleter::operator()(CacheEntry* p) const { std::free(p); }
BpeScratch::~BpeScratch() = default;

BpeScratch::BpeScratch() {
  static_assert(sizeof(CacheEntry) == 64);
  // calloc: pages that no pre-token needs are never touched.
  cache_.reset(static_cast<CacheEntry*>(std::calloc(size_t{1} << CacheEntry::bits, sizeof(CacheEntry))));
  if (cache_ == nullptr) throw std::bad_alloc();
}

namespace {

struct CacheKey {
  uint64_t words[3];
  size_t slot;
};

template <class T>
uint64_t load(const char* p) {
  T v;
  std::memcpy(&v, p, sizeof(T));
  return v;
}

/// The bytes as three words (overlapping where that spares a loop; with the length they are unambiguous). 1 <= size
/// <= 24.
CacheKey cache_key(std::string_view s, int bits) {
  const char* p = s.data();
  const size_t n = s.size();
  CacheKey key{};
  if (n >= 8) {
    key.words[0] = load<uint64_t>(p);
    key.words[1] = n <= 16 ? load<uint64_t>(p + n - 8) : load<uint64_t>(p + 8);
    if (n > 16) key.words[2] = load<uint64_t>(p + n - 8);
  } else if (n >= 4) {
    key.words[0] = load<uint32_t>(p) | load<uint32_t>(p + n - 4) << 32;
  } else {
    key.words[0] = load<uint8_t>(p) | load<uint8_t>(p + n / 2) << 8 | load<uint8_t>(p + n - 1) << 16;
  }
  uint64_t h =
      key.words[0] ^ std::rotl(key.words[1], 29) * 0xD6E8FEB86659FD93u ^ key.words[2] * 0xA0761D6478BD642Fu ^ n << 56;
  h *= 0x9E3779B97F4A7C15u;
  h ^= h >> 29;
  h *= 0xBF58476D1CE4E5B9u;
  key.slot = h >> (64 - bits);
  return key;
}

}  // namespace

// --- the model ---

Bpe::Bpe(BpeOptions options, Vocab vocab) : options_(std::move(options)), vocab_(std::move(vocab)) {
  plain_symbols_ = options_.continuing_subword_prefix.empty() && options_.end_of_word_suffix.empty();
}
Bpe::Bpe(Bpe&&) noexcept = default;
Bpe& Bpe::operator=(Bpe&&) noexcept = default;
Bpe::~Bpe() = default;

void Bpe::finish(const std::vector<MergeTable::Row>& merges, bool ignore_merges) {
  options_.ignore_merges = ignore_merges;
  merges_.build(merges);
  if (options_.unk_token) {
    unk_ = vocab_.find(*options_.unk_token);
    // The library notices only when an unknown character comes; a missing token is then an error in the middle of a
    // text.
    if (unk_ < 0)
      throw Error("model: unk_token: expected a token of the vocabulary, got '" + *options_.unk_token + "'");
  }
  for (int b = 0; b < 256; ++b) {
    const char c = static_cast<char>(b);
    byte_symbol_[b] = vocab_.byte_mode() || b < 0x80 ? vocab_.find_text(std::string_view(&c, 1)) : -1;
    static constexpr char digits[] = "0123456789ABCDEF";
    const char name[] = {'<', '0', 'x', digits[b >> 4], digits[b & 15], '>'};
    byte_fallback_[b] = vocab_.find(std::string_view(name, sizeof name));
  }
  find_split_points();
}

void Bpe::set_control_ids(std::vector<bool> flags) {
  is_control_ = std::move(flags);
  text_reaches_control_ = false;
  bool in_vocab = false;
  for (size_t id = 0; id < is_control_.size(); ++id)
    in_vocab |= is_control_[id] && vocab_.has(static_cast<int32_t>(id));
  if (!in_vocab) return;
  merges_.for_each([&](int32_t, int32_t, int32_t id) { text_reaches_control_ |= is_control(id); });
  // A token is also reached as a single symbol, or with ignore_merges as a whole pre-token.
  for (size_t id = 0; id < is_control_.size() && !text_reaches_control_; ++id) {
    if (!is_control_[id] || !vocab_.has(static_cast<int32_t>(id)) || static_cast<int32_t>(id) == unk_) continue;
    const std::string_view text = vocab_.text(static_cast<int32_t>(id));
    const bool one_symbol = vocab_.byte_mode() ? text.size() == 1
                            : !plain_symbols_
                                ? true
                                : !text.empty() && sequence_length(static_cast<unsigned char>(text[0])) == text.size();
    text_reaches_control_ = options_.ignore_merges || one_symbol ||
                            std::find(std::begin(byte_fallback_), std::end(byte_fallback_), static_cast<int32_t>(id)) !=
                                std::end(byte_fallback_);
  }
}

// Vocabularies made from sentencepiece come without a pre-tokenizer: the whole text is one piece. No token reaches
// across most blanks, so that cutting there changes nothing and makes the parts short and worth remembering. It is
// exact because it asks the merges themselves: a cut between x and a blank is taken only if no merge joins something
// that ends in x with something that begins with a blank.
void Bpe::find_split_points() {
  const bool nothing_dropped =
      unk_ >= 0 || (options_.byte_fallback &&
                    std::find(std::begin(byte_fallback_), std::end(byte_fallback_), -1) == std::end(byte_fallback_));
  if (vocab_.byte_mode() || !plain_symbols_ || !nothing_dropped || vocab_.find_text(kBlank) < 0) return;
  splits_at_blank_ = true;
  merges_.for_each([&](int32_t left, int32_t right, int32_t) {
    if (!vocab_.text(right).starts_with(kBlank)) return;
    // A symbol whose text is not the text it stands for: "<0x41>", "<unk>".
    const std::string_view text = vocab_.text(left);
    if (text.empty() || text.ends_with(options_.unk_token.value_or("<unk>"))) splits_at_blank_ = false;
    for (int32_t id : byte_fallback_)
      if (id >= 0 && text.ends_with(vocab_.text(id))) splits_at_blank_ = false;
    if (!splits_at_blank_) return;
    const char* end = text.data() + text.size();
    joins_blank_.push_back(previous_code_point(end));
  });
  std::sort(joins_blank_.begin(), joins_blank_.end());
  joins_blank_.erase(std::unique(joins_blank_.begin(), joins_blank_.end()), joins_blank_.end());
}

bool Bpe::splits_before(std::string_view text, size_t position) const {
  const char* p = text.data() + position;
  return !std::binary_search(joins_blank_.begin(), joins_blank_.end(), previous_code_point(p));
}

void Bpe::encode(std::string_view text, bool untrusted, BpeScratch& scratch, std::vector<int32_t>& out) const {
  untrusted = untrusted && text_reaches_control_;
  if (!splits_at_blank_) return encode_part(text, true, true, untrusted, scratch, out);
  if (options_.ignore_merges && text.size() <= vocab_.longest()) {
    const int32_t id = vocab_.find_text(text);
    if (id >= 0 && !(untrusted && is_control(id))) return out.push_back(id);
  }
  size_t begin = 0;
  for (size_t blank = text.find(kBlank, 1); blank != std::string_view::npos;
       blank = text.find(kBlank, blank + kBlank.size())) {
    if (!splits_before(text, blank)) continue;
    encode_part(text.substr(begin, blank - begin), false, false, untrusted, scratch, out);
    begin = blank;
  }
  encode_part(text.substr(begin), false, false, untrusted, scratch, out);
}

void Bpe::encode_part(std::string_view text, bool first, bool last, bool untrusted, BpeScratch& scratch,
                      std::vector<int32_t>& out) const {
  using Entry = BpeScratch::CacheEntry;
  const bool whole = first && last && options_.ignore_merges;
  if (untrusted || text.size() > Entry::max_bytes) {
    if (whole && text.size() <= vocab_.longest()) {
      const int32_t id = vocab_.find_text(text);
      if (id >= 0 && !(untrusted && is_control(id))) return out.push_back(id);
    }
    return encode_uncached(text, untrusted, scratch, out);
  }
  const CacheKey key = cache_key(text, Entry::bits);
  Entry& entry = scratch.cache_[key.slot];
  if (entry.n_bytes == text.size() && entry.key[0] == key.words[0] && entry.key[1] == key.words[1] &&
      entry.key[2] == key.words[2]) {
    out.insert(out.end(), entry.ids, entry.ids + entry.n_ids);
    return;
  }
  const size_t before = out.size();
  int32_t id = -1;
  if (whole && text.size() <= vocab_.longest()) id = vocab_.find_text(text);
  if (id >= 0)
    out.push_back(id);
  else
    encode_uncached(text, untrusted, scratch, out);
  const size_t n_ids = out.size() - before;
  if (n_ids > Entry::max_ids) return;
  std::memcpy(entry.key, key.words, sizeof entry.key);
  entry.n_bytes = static_cast<uint8_t>(text.size());
  entry.n_ids = static_cast<uint8_t>(n_ids);
  std::copy(out.begin() + static_cast<ptrdiff_t>(before), out.end(), entry.ids);
}

void Bpe::encode_uncached(std::string_view text, bool untrusted, BpeScratch& scratch, std::vector<int32_t>& out) const {
  scratch.symbols_.clear();
  initial_symbols(text, untrusted, scratch.symbols_);
  if (scratch.symbols_.size() > kFewSymbols)
    merge_many(scratch, untrusted);
  else
    merge_few(scratch.symbols_, untrusted);
  out.insert(out.end(), scratch.symbols_.begin(), scratch.symbols_.end());
  constexpr size_t keep = size_t{1} << 18;
  if (scratch.symbols_.capacity() > keep) {
    scratch.symbols_ = {};
    scratch.links_ = {};
  }
}

int32_t Bpe::symbol_of(std::string_view symbol, bool untrusted) const {
  const int32_t id = vocab_.find_text(symbol);
  return id >= 0 && untrusted && is_control(id) ? -1 : id;
}

// The order of events is the library's, oddities included: an unknown character waits (to be fused with the next) until
// a known one comes, and characters that fall back to bytes overtake it.
void Bpe::initial_symbols(std::string_view text, bool untrusted, std::vector<int32_t>& symbols) const {
  if (vocab_.byte_mode() && !untrusted && unk_ < 0) {
    for (const char c : text) {
      const int32_t id = byte_symbol_[static_cast<uint8_t>(c)];
      if (id >= 0) symbols.push_back(id);
    }
    return;
  }
  bool unk_waits = false;
  std::string with_affix;
  for (size_t i = 0, next; i < text.size(); i = next) {
    const size_t size = vocab_.byte_mode() ? 1 : sequence_length(static_cast<unsigned char>(text[i]));
    next = i + size;
    std::string_view symbol = text.substr(i, size);
    int32_t id;
    if (!plain_symbols_) {
      with_affix = (i > 0 ? options_.continuing_subword_prefix : "") + std::string(symbol);
      if (next == text.size()) with_affix += options_.end_of_word_suffix;
      symbol = with_affix;
      id = symbol_of(symbol, untrusted);
    } else if (size == 1) {
      id = byte_symbol_[static_cast<uint8_t>(symbol[0])];
      if (id >= 0 && untrusted && is_control(id)) id = -1;
    } else {
      id = symbol_of(symbol, untrusted);
    }
    if (id >= 0) {
      if (unk_waits) symbols.push_back(unk_);
      unk_waits = false;
      symbols.push_back(id);
      continue;
    }
    if (options_.byte_fallback) {
      const auto usable = [&](char c) {
        const int32_t b = byte_fallback_[static_cast<uint8_t>(c)];
        return b >= 0 && !(untrusted && is_control(b));
      };
      if (std::all_of(symbol.begin(), symbol.end(), usable)) {
        for (const char c : symbol) symbols.push_back(byte_fallback_[static_cast<uint8_t>(c)]);
        continue;
      }
    }
    if (unk_ < 0) continue;
    if (unk_waits && !options_.fuse_unk) symbols.push_back(unk_);
    unk_waits = true;
  }
  if (unk_waits) symbols.push_back(unk_);
}

// Again and again the pair of lowest rank, the leftmost of equals.
void Bpe::merge_few(std::vector<int32_t>& symbols, bool untrusted) const {
  size_t n = symbols.size();
  if (n < 2) return;
  int32_t* ids = symbols.data();
  uint32_t ranks[kFewSymbols];  // of the pair (i, i + 1)
  int32_t merged[kFewSymbols];
  const auto look_up = [&](size_t i) {
    const Merge m = find_merge(ids[i], ids[i + 1], untrusted);
    ranks[i] = m.rank;
    merged[i] = m.id;
  };
  // The table is larger than the caches: let the accesses overlap.
  for (size_t i = 0; i + 1 < n; ++i) merges_.prefetch(ids[i], ids[i + 1]);
  for (size_t i = 0; i + 1 < n; ++i) look_up(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i)
      if (ranks[i] < ranks[best]) best = i;
    if (ranks[best] == Merge::kNone) break;
    ids[best] = merged[best];
    for (size_t i = best + 1; i + 1 < n; ++i) {
      ids[i] = ids[i + 1];
      ranks[i] = ranks[i + 1];
      merged[i] = merged[i + 1];
    }
    --n;
    if (best > 0 && best + 1 < n) merges_.prefetch(ids[best], ids[best + 1]);
    if (best > 0) look_up(best - 1);
    if (best + 1 < n) look_up(best);
  }
  symbols.resize(n);
}

namespace {
struct Candidate {
  uint32_t rank, position;
  int32_t id;
};
}  // namespace

// The same result with a heap, O(n log n).
void Bpe::merge_many(BpeScratch& scratch, bool untrusted) const {
  std::vector<int32_t>& ids = scratch.symbols_;
  const uint32_t n = static_cast<uint32_t>(ids.size());
  // links_: previous and next of each symbol; n: none. A merged-away symbol has id -1.
  scratch.links_.resize(2 * size_t{n});
  uint32_t* previous = scratch.links_.data();
  uint32_t* next = previous + n;
  for (uint32_t i = 0; i < n; ++i) {
    previous[i] = i == 0 ? n : i - 1;
    next[i] = i + 1;
  }
  std::vector<Candidate> heap;
  heap.reserve(n);
  const auto later = [](const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  };
  for (uint32_t i = 0; i + 1 < n; ++i)
    if (const Merge m = find_merge(ids[i], ids[i + 1], untrusted)) heap.push_back({m.rank, i, m.id});
  std::make_heap(heap.begin(), heap.end(), later);
  const auto consider = [&](uint32_t left, uint32_t right) {
    if (const Merge m = find_merge(ids[left], ids[right], untrusted)) {
      heap.push_back({m.rank, left, m.id});
      std::push_heap(heap.begin(), heap.end(), later);
    }
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), later);
    const Candidate top = heap.back();
    heap.pop_back();
    const uint32_t left = top.position;
    if (ids[left] < 0 || next[left] == n) continue;
    const uint32_t right = next[left];
    const Merge now = find_merge(ids[left], ids[right], untrusted);
    if (!now || now.id != top.id) continue;  // an entry that a neighbour's merge has overtaken
    ids[left] = top.id;
    ids[right] = -1;
    next[left] = next[right];
    if (next[left] != n) previous[next[left]] = left;
    if (previous[left] != n) consider(previous[left], left);
    if (next[left] != n) consider(left, next[left]);
  }
  ids.erase(std::remove(ids.begin(), ids.end(), -1), ids.end());
}

}  // namespace engine::tok
