#include "text/tokenizer.h"

#include <algorithm>
#include <mutex>

#include "base/error.h"
#include "text/tokenizer/pipeline.h"
#include "text/tokenizer/unicode.h"

namespace engine {

using namespace tok;

struct Tokenizer::Impl {
  Pipeline pipeline;
  int32_t vocab_size = 0;

  // Working memory with its memo of frequent pre-tokens outlives a call, one for each thread that encodes at a time.
  mutable std::mutex mutex;
  mutable std::vector<std::unique_ptr<BpeScratch>> idle;

  class Encoding;
  std::vector<int32_t> encode(const Piece& input) const;
  std::string id_to_token(int32_t id) const {
    if (const AddedToken* token = pipeline.added.by_id(id)) return token->content;
    const Vocab& vocab = pipeline.model->vocab();
    return vocab.has(id) ? vocab.spelling(id) : std::string();
  }
  bool has(int32_t id) const { return pipeline.added.by_id(id) != nullptr || pipeline.model->vocab().has(id); }
  bool is_special(int32_t id) const {
    const AddedToken* token = pipeline.added.by_id(id);
    return pipeline.added.is_special_content(token != nullptr ? token->content : id_to_token(id));
  }
};

/// One text on its way: added tokens on the raw text, normalization of each piece between, added tokens on the
/// normalized text, pre-tokens, ids.
class Tokenizer::Impl::Encoding final : public AddedTokenSink, public PieceSink {
 public:
  explicit Encoding(const Impl& impl) : pipeline_(impl.pipeline), impl_(impl) {
    const std::lock_guard lock(impl.mutex);
    if (!impl.idle.empty()) {
      scratch_ = std::move(impl.idle.back());
      impl.idle.pop_back();
    }
    if (scratch_ == nullptr) scratch_ = std::make_unique<BpeScratch>();
  }
  ~Encoding() {
    constexpr size_t max_idle = 16;
    const std::lock_guard lock(impl_.mutex);
    if (impl_.idle.size() < max_idle) impl_.idle.push_back(std::move(scratch_));
  }

  std::vector<int32_t> run(const Piece& input) {
    ids_.reserve(input.text.size() / 4 + 8);
    normalized_ = false;
    pipeline_.added.split(input, false, *this);
    return std::move(ids_);
  }

  void take_token(int32_t id) override { ids_.push_back(id); }
  void take_text(const Piece& piece) override {
    if (normalized_) return pre_tokenize(piece);
    const Piece text = pipeline_.normalizer.empty() ? piece : pipeline_.normalizer.apply(piece, a_, b_);
    if (!pipeline_.added.any(true)) return pre_tokenize(text);
    normalized_ = true;
    pipeline_.added.split(text, true, *this);
    normalized_ = false;
  }
  void take(const Piece& piece) override {
    if (!piece.text.empty()) pipeline_.model->encode(piece.text, mixed_ && !piece.all_trusted(), *scratch_, ids_);
  }

 private:
  void pre_tokenize(const Piece& piece) {
    mixed_ = (piece.trust != nullptr || !piece.trusted) && pipeline_.model->text_reaches_control();
    if (!piece.text.empty()) pipeline_.pre_tokenizer.run(piece, *this);
  }

  const Pipeline& pipeline_;
  const Impl& impl_;
  std::unique_ptr<BpeScratch> scratch_;
  std::vector<int32_t> ids_;
  PieceBuffer a_, b_;
  bool normalized_ = false;
  bool mixed_ = false;  // pieces may have to avoid control ids
};

std::vector<int32_t> Tokenizer::Impl::encode(const Piece& input) const {
  if (input.text.size() > kMaxTextBytes)
    throw Error("tokenizer: expected at most 1 GiB of text, got " + std::to_string(input.text.size()) + " bytes");
  return Encoding(*this).run(input);
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::from_directory(const std::string& directory) {
  auto impl = std::make_unique<Impl>();
  impl->pipeline = load_pipeline(directory);
  const Pipeline& p = impl->pipeline;
  impl->vocab_size = std::max(p.model->vocab().limit(), p.added.limit());
  return Tokenizer(std::move(impl));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  std::string repaired;
  if (!is_valid_utf8(text)) {
    append_lossy(repaired, text, false);
    text = repaired;
  }
  Piece piece{text};
  piece.at_start = true;
  return impl_->pipeline.post_processor.apply(impl_->encode(piece), add_special_tokens);
}

std::vector<int32_t> Tokenizer::encode(std::span<const TextSpan> spans) const {
  // Invalid bytes are mended span by span, so that no half of a character changes sides.
  std::string text;
  std::vector<uint8_t> trust;
  bool any_trusted = false, any_untrusted = false;
  for (const TextSpan& span : spans) {
    if (span.text.empty()) continue;
    append_lossy(text, span.text, false);
    trust.resize(text.size(), span.trusted ? 1 : 0);
    (span.trusted ? any_trusted : any_untrusted) = true;
  }
  Piece piece{text};
  piece.at_start = true;
  piece.trusted = !any_untrusted;
  if (any_trusted && any_untrusted) piece.trust = trust.data();
  return impl_->encode(piece);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  Detokenizer detokenizer(*this, skip_special_tokens);
  std::string out;
  for (const int32_t id : ids) out += detokenizer.push(id);
  out += detokenizer.flush();
  return out;
}

std::string Tokenizer::token_bytes(int32_t id) const {
  return impl_->has(id) ? impl_->pipeline.decoder.token_bytes(impl_->id_to_token(id)) : std::string();
}
bool Tokenizer::has_token_bytes() const { return impl_->pipeline.decoder.is_tokenwise(); }

int32_t Tokenizer::vocab_size() const { return impl_->vocab_size; }

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  int32_t id = impl_->pipeline.added.find(token);
  if (id < 0) id = impl_->pipeline.model->vocab().find(token);
  return id < 0 ? std::nullopt : std::optional(id);
}

std::string Tokenizer::id_to_token(int32_t id) const { return impl_->id_to_token(id); }
bool Tokenizer::is_special(int32_t id) const { return impl_->is_special(id); }
bool Tokenizer::is_added(int32_t id) const { return impl_->pipeline.added.by_id(id) != nullptr; }
const std::string& Tokenizer::bos_token() const { return impl_->pipeline.bos_token; }
const std::string& Tokenizer::eos_token() const { return impl_->pipeline.eos_token; }
const std::string& Tokenizer::pad_token() const { return impl_->pipeline.pad_token; }
const std::string& Tokenizer::unk_token() const { return impl_->pipeline.unk_token; }
int64_t Tokenizer::model_max_length() const { return impl_->pipeline.model_max_length; }

struct Detokenizer::Impl {
  const Tokenizer::Impl* tokenizer;
  bool skip_special;
  std::vector<int32_t> shown;
  DecodeStream stream;

  void push(int32_t id) {
    if (!tokenizer->has(id)) return;
    if (skip_special && tokenizer->is_special(id) && std::find(shown.begin(), shown.end(), id) == shown.end()) return;
    stream.token(tokenizer->id_to_token(id));
  }
};

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool skip_special_tokens, std::span<const int32_t> shown)
    : impl_(new Impl{tokenizer.impl_.get(), skip_special_tokens, {shown.begin(), shown.end()}, tokenizer.impl_->pipeline.decoder.stream()}) {}
Detokenizer::~Detokenizer() = default;
Detokenizer::Detokenizer(Detokenizer&&) noexcept = default;
Detokenizer& Detokenizer::operator=(Detokenizer&&) noexcept = default;

void Detokenizer::prime(std::span<const int32_t> ids) {
  for (const int32_t id : ids) impl_->push(id);
  impl_->stream.settle();
  impl_->stream.take();
}

std::string Detokenizer::push(int32_t id) {
  impl_->push(id);
  return impl_->stream.take();
}

std::string Detokenizer::flush() {
  impl_->stream.finish();
  return impl_->stream.take();
}

}  // namespace engine
