#include "model/binder.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/error.h"
#include "model/adapter.h"
#include "model/import/importer.h"

namespace engine {
namespace {

using kernels::Format;

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f64;
}

size_t align64(size_t n) { return (n + 63) / 64 * 64; }

}  // namespace

Binder::Layout Binder::wanted_layout(const MatrixSource& source, Precision precision) const {
  const Format natural = source.natural_format();
  if (kernels::is_mxfp4(natural)) {
    // Kept as stored whatever is asked for: every float format would hold the same values in more bytes, and int4 others. What the choice
    // does change is the precision of the activations.
    return {options_.dtype < WeightDType::i8 ? Format::mxfp4 : Format::mxfp4_i8, source.natural_group(), true};
  }
  const bool integers = kernels::is_packed(natural);
  const auto quantized = [&](Format format) {
    // Integers as stored where they fit: in their own format, or four bits in eight.
    if (integers && format <= natural) return Layout{format, source.natural_group(), true};
    return Layout{format, options_.group, false};
  };
  if (options_.dtype == WeightDType::automatic || (precision == Precision::exact && options_.dtype >= WeightDType::i8)) {
    if (integers) return precision == Precision::exact ? Layout{Format::f32, 0, false} : quantized(natural);
    return {natural, 0, false};
  }
  switch (options_.dtype) {
    case WeightDType::f32: return {Format::f32, 0, false};
    case WeightDType::bf16: return {Format::bf16, 0, false};
    case WeightDType::f16: return {Format::f16, 0, false};
    case WeightDType::i4: return quantized(precision == Precision::output ? options_.output : Format::i4);
    default: return quantized(Format::i8);
  }
}

Binder::Binder(Model& model, const Checkpoint& checkpoint, const LoadOptions& options, const Importer* importer, Adapter* adapter)
    : model_(model), checkpoint_(checkpoint), options_(options), importer_(importer), adapter_(adapter) {
  if (!model.wrapped_) return;
  names_ = checkpoint.find("model.language_model.embed_tokens.weight") != nullptr ? Names::inner_prefix : Names::outer_prefix;
}

std::string Binder::stored_name(const std::string& name) const {
  constexpr std::string_view model = "model.";
  if (names_ == Names::outer_prefix) return "language_model." + name;
  if (names_ == Names::inner_prefix && name.starts_with(model)) return "model.language_model." + name.substr(model.size());
  return name;
}

size_t Binder::converted_bytes(const kernels::Matrix& m) {
  if (!kernels::is_packed(m.format)) return align64(static_cast<size_t>(m.n_rows * m.n_cols * kernels::element_bytes(m.format)));
  const int64_t n_blocks = (m.n_rows + kernels::pack_rows - 1) / kernels::pack_rows;
  return static_cast<size_t>(n_blocks) * kernels::table().packed_block_bytes(m.format, m.n_cols, m.group);
}

std::byte* Binder::own(size_t n_bytes) {
  constexpr size_t min_chunk = size_t{256} << 10;
  n_bytes = align64(n_bytes);
  if (chunk_left_ < n_bytes) reserve(std::max(n_bytes, min_chunk));
  model_.owned_bytes_ += n_bytes;
  chunk_left_ -= n_bytes;
  return std::exchange(chunk_next_, chunk_next_ + n_bytes);
}

void Binder::disown(size_t n_bytes) {
  n_bytes = align64(n_bytes);
  chunk_next_ -= n_bytes;
  chunk_left_ += n_bytes;
  model_.owned_bytes_ -= n_bytes;
}

void Binder::reserve(size_t n_bytes) {
  model_.owned_.emplace_back(n_bytes, true);
  chunk_next_ = model_.owned_.back().data();
  chunk_left_ = n_bytes;
}

const TensorView* Binder::expect(const std::string& name, const Shape& shape, DType dtype) {
  const TensorView* t = find(name);
  if (t == nullptr) {
    problems_.push_back(stored_name(name) + " is missing");
  } else if (t->shape != shape) {
    problems_.push_back(stored_name(name) + " expected " + shape_string(shape) + ", got " + shape_string(t->shape));
  } else if (t->dtype != dtype) {
    problems_.push_back(stored_name(name) + " expected " + std::string(dtype_name(dtype)) + ", got " + std::string(dtype_name(t->dtype)));
  } else {
    return t;
  }
  return nullptr;
}

const TensorView* Binder::expect(const std::string& name, const Shape& shape) {
  const TensorView* t = find(name);
  if (t != nullptr && t->shape == shape && !is_float(t->dtype)) {
    problems_.push_back(stored_name(name) + " expected F32, BF16 or F16, got " + std::string(dtype_name(t->dtype)));
    return nullptr;
  }
  return expect(name, shape, t != nullptr ? t->dtype : DType::f32);
}

const TensorView* Binder::expect_scales(const std::string& name, const Shape& shape) {
  const TensorView* t = find(name);
  const bool narrow = t != nullptr && (t->dtype == DType::f8_e4m3 || t->dtype == DType::f8_e5m2 || t->dtype == DType::f8_e8m0);
  return narrow ? expect(name, shape, t->dtype) : expect(name, shape);
}

void Binder::matrix(kernels::Matrix& out, const std::string& name, int64_t n_rows, int64_t n_cols, const Rows& rows,
                    Precision precision) {
  const Shape stored = rows.stored.empty() ? Shape{n_rows, n_cols} : rows.stored;
  const bool imported = importer_ != nullptr && importer_->holds(*this, name), adapted = adapter_ != nullptr && adapter_->has(stored_name(name));
  const TensorView* t = imported ? nullptr : expect(name, stored);
  if (options_.bound != nullptr) {
    options_.bound->push_back({&out, stored_name(name), rows.first, rows.step, precision == Precision::output, precision == Precision::exact, {}});
  }
  if (!imported && !adapted) {
    if (t != nullptr) matrix(out, stored_rows(*t, rows.first, n_rows, rows.step), n_rows, n_cols, precision);
    return;
  }
  // The whole stored matrix, then the rows that are meant.
  int64_t n_stored = 1;
  for (size_t i = 0; i + 1 < stored.size(); ++i) n_stored *= stored[i];
  std::unique_ptr<MatrixSource> source;
  if (imported) source = importer_->open(*this, name, n_stored, n_cols);
  else if (t != nullptr) source = stored_rows(*t, 0, n_stored);
  if (source == nullptr) return;
  if (adapted) {
    std::string text;
    source = adapter_->merged(std::move(source), stored_name(name), n_stored, n_cols, &text);
    if (source == nullptr) return problem(std::move(text));
  }
  matrix(out, selected_rows(std::move(source), n_stored, rows.first, n_rows, rows.step), n_rows, n_cols, precision, imported);
}

void Binder::matrix(kernels::Matrix& out, std::unique_ptr<MatrixSource> source, int64_t n_rows, int64_t n_cols,
                    Precision precision) {
  matrix(out, std::move(source), n_rows, n_cols, precision, false);
}

void Binder::matrix(kernels::Matrix& out, std::unique_ptr<MatrixSource> source, int64_t n_rows, int64_t n_cols, Precision precision,
                    bool imported) {
  if (source == nullptr) return;
  const Layout layout = wanted_layout(*source, precision);
  const void* in_place = layout.format == source->natural_format() ? source->in_place() : nullptr;
  out = {in_place, n_rows, n_cols, layout.format, layout.group};
  model_.quantized_ |= kernels::has_int8_activations(layout.format);
  if (kernels::is_mxfp4(layout.format) && model_.import_format_.empty()) model_.import_format_ = "mxfp4";  // config.json need not say so
  model_.n_parameters_ += static_cast<uint64_t>(n_rows * n_cols);
  if (in_place != nullptr) model_.mapped_bytes_ += source->n_bytes();
  else conversions_.push_back({&out, std::move(source), imported || kernels::is_mxfp4(layout.format), layout.as_stored});
}

void Binder::linear(Linear& out, const std::string& prefix, int64_t n_out, int64_t n_in, bool bias, const Rows& rows,
                    Precision precision) {
  matrix(out.w, prefix + ".weight", n_out, n_in, rows, precision);
  if (!bias) return;
  Rows bias_rows = rows;
  if (!rows.stored.empty()) bias_rows.stored.pop_back();
  out.bias = vector(prefix + ".bias", n_out, 0, bias_rows);
}

const float* Binder::vector(const std::string& name, int64_t n, float add, const Rows& rows) {
  const TensorView* t = expect(name, rows.stored.empty() ? Shape{n} : rows.stored);
  if (t == nullptr) return nullptr;
  float* out = reinterpret_cast<float*>(own(static_cast<size_t>(n) * sizeof(float)));
  TensorView flat = *t;
  flat.shape = {t->n_elements(), 1};
  const auto source = stored_rows(flat, rows.first, n, rows.step);
  for (int64_t i = 0; i < n; ++i) source->read_row(i, out + i);
  if (add != 0) std::for_each(out, out + n, [add](float& v) { v += add; });
  model_.n_parameters_ += static_cast<uint64_t>(n);
  return out;
}

const float* Binder::joined_vectors(const std::string& first, const std::string& last, int n_vectors, int64_t n) {
  float* out = reinterpret_cast<float*>(own(static_cast<size_t>(n_vectors * n) * sizeof(float)));
  for (int i = 0; i < n_vectors; ++i) {
    const TensorView* t = expect(first + std::to_string(i) + last, {n});
    if (t != nullptr) to_float(*t, out + i * n);
  }
  model_.n_parameters_ += static_cast<uint64_t>(n_vectors * n);
  return out;
}

void Binder::norm(NormWeights& out, const std::string& prefix, int64_t n, bool bias) {
  out.weight = vector(prefix + ".weight", n, spec().norm_plus_one ? 1.0f : 0.0f);
  if (bias) out.bias = vector(prefix + ".bias", n);
}

void Binder::ends(const std::string& embedding, const std::string& output) {
  const int64_t vocab = spec().vocab_size, d = spec().d_model;
  const bool tied = spec().tied_embeddings;
  const std::string name = embedding + ".weight";
  // Rows are looked up as they are stored, a few at a time. Where the output matrix is quantized it is a matrix of its own, tied or not.
  const uint64_t n_parameters = model_.n_parameters_, mapped_bytes = model_.mapped_bytes_;
  matrix(weights().embedding, name, vocab, d, {}, tied && options_.dtype < WeightDType::i8 ? Precision::output : Precision::exact);
  if (!tied || options_.dtype >= WeightDType::i8) model_.lookup_bytes_ = model_.mapped_bytes_ - mapped_bytes;
  if (!tied) {
    linear(weights().output, output, vocab, d, false, {}, Precision::output);
  } else if (options_.dtype >= WeightDType::i8) {
    model_.n_parameters_ = n_parameters;  // counted once
    matrix(weights().output.w, name, vocab, d, {}, Precision::output);
  }
  if (options_.bound != nullptr) options_.bound->back().output_tensor = stored_name(output + ".weight");
}

/// Packed blocks [begin, end) of a quantized matrix.
bool Binder::quantize_blocks(const Conversion& job, std::byte* out, int64_t begin, int64_t end) const {
  const kernels::Table& kernel = kernels::table();
  const kernels::Matrix& m = *job.out;
  const int64_t n_groups = (m.n_cols + m.group - 1) / m.group;
  std::vector<float> row(static_cast<size_t>(m.n_cols));
  std::vector<int8_t> q(static_cast<size_t>(kernels::pack_rows * m.n_cols));
  std::vector<uint16_t> scales(static_cast<size_t>(kernels::pack_rows * n_groups));
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kernels::pack_rows;
    const int n = static_cast<int>(std::min<int64_t>(kernels::pack_rows, m.n_rows - first));
    for (int i = 0; i < n; ++i) {
      int8_t* row_q = q.data() + i * m.n_cols;
      uint16_t* row_scales = scales.data() + i * n_groups;
      if (job.as_stored) {
        if (!job.source->read_quantized(first + i, row_q, row_scales)) return false;
        continue;
      }
      job.source->read_row(first + i, row.data());
      kernel.quantize_row(m.format, m.group, row.data(), m.n_cols, row_q, row_scales);
    }
    kernel.pack_block(m.format, m.group, q.data(), scales.data(), n, m.n_cols,
                      out + static_cast<size_t>(block) * kernel.packed_block_bytes(m.format, m.n_cols, m.group));
  }
  return true;
}

/// Rows [begin, end) of a matrix in a float format.
void Binder::narrow_rows(const Conversion& job, std::byte* out, int64_t begin, int64_t end) const {
  const Format format = job.out->format;
  const int64_t n_cols = job.out->n_cols;
  std::vector<float> wide(static_cast<size_t>(n_cols));
  for (int64_t r = begin; r < end; ++r) {
    float* target = format == Format::f32 ? reinterpret_cast<float*>(out) + r * n_cols : wide.data();
    job.source->read_row(r, target);
    if (format == Format::f32) continue;
    uint16_t* narrow = reinterpret_cast<uint16_t*>(out) + r * n_cols;
    for (int64_t c = 0; c < n_cols; ++c) {
      narrow[c] = format == Format::bf16 ? float_to_bf16(wide[c]) : float_to_f16(wide[c]);
    }
  }
}

/// Widens row by row and narrows or quantizes to the wanted format, rows spread over the team.
bool Binder::convert(const Conversion& job) {
  const Format format = job.out->format;
  const int64_t n_rows = job.out->n_rows;
  const bool packed = kernels::is_packed(format);
  const int64_t n_blocks = (n_rows + kernels::pack_rows - 1) / kernels::pack_rows;
  const size_t n_bytes = converted_bytes(*job.out);
  std::byte* out = own(n_bytes);
  std::atomic<bool> fits = true;
  const auto work = [&](int64_t begin, int64_t end) {
    if (!packed) narrow_rows(job, out, begin, end);
    else if (!quantize_blocks(job, out, begin, end)) fits = false;
  };
  const int64_t n = packed ? n_blocks : n_rows, grain = packed ? 4 : 16;
  if (options_.team != nullptr) {
    options_.team->run([&](Worker& worker) { worker.for_chunks(n, grain, work); });
  } else {
    work(0, n);
  }
  if (!fits) disown(n_bytes);
  job.out->data = out;
  return fits;
}

/// What an imported matrix became, and how far from what was stored, by one row in sixteen; fewer where integers went in as they are.
void Binder::measure(const Conversion& job) {
  const kernels::Matrix& m = *job.out;
  const int64_t step = job.as_stored ? 16 * kernels::pack_rows : kernels::pack_rows, n = (m.n_rows + step - 1) / step;
  std::vector<Deviation> rows(static_cast<size_t>(n));
  const auto work = [&](int64_t begin, int64_t end) {
    std::vector<float> wanted(static_cast<size_t>(m.n_cols)), got(wanted.size());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i * step;
      job.source->read_row(row, wanted.data());
      kernels::table().get_row(m, row, got.data());
      Deviation& d = rows[static_cast<size_t>(i)];
      for (size_t c = 0; c < wanted.size(); ++c) {
        const double w = wanted[c], e = got[c] - w;
        d.error += e * e;
        d.sum += w * w;
      }
    }
  };
  if (options_.team != nullptr) {
    options_.team->run([&](Worker& worker) { worker.for_chunks(n, 1, work); });
  } else {
    work(0, n);
  }
  ImportedWeights& line = model_.imported_[static_cast<size_t>(m.format)];
  ++line.n_matrices;
  for (const Deviation& d : rows) line.squared_error += d.error, line.squared_sum += d.sum;
}

void Binder::check() const {
  if (problems_.empty()) return;
  constexpr size_t most = 8;
  std::string list;
  for (size_t i = 0; i < problems_.size() && i < most; ++i) list += (i > 0 ? "; " : "") + problems_[i];
  if (problems_.size() > most) list += "; and " + std::to_string(problems_.size() - most) + " more";
  throw Error(model_.directory_ + ": " + std::to_string(problems_.size()) + " tensors do not fit " + model_.spec_.architecture + ": " + list);
}

void Binder::finish() {
  if (options_.bind_only) {
    static constexpr std::byte nothing{};
    for (const Conversion& job : conversions_) {
      job.out->data = &nothing;  // not absent
      model_.owned_bytes_ += converted_bytes(*job.out);
    }
    return;
  }
  constexpr uint64_t pages_kept = uint64_t{64} << 20;  // of the checkpoint, while it is being converted
  uint64_t total = 0, done = 0, touched = 0;
  size_t converted = 0;
  for (const Conversion& job : conversions_) {
    total += job.source->n_bytes();
    converted += converted_bytes(*job.out);
  }
  // All matrices in one piece: only there do huge pages cover the small ones and the ends of the large ones too (int8 decode: +25%).
  if (converted > chunk_left_) reserve(converted);
  for (Conversion& job : conversions_) {
    if (!convert(job)) {
      // Stored scales that our formats have no room for: as floats, or quantized anew where that was asked for.
      const bool asked = options_.dtype >= WeightDType::i8;
      job.as_stored = false;
      job.out->format = asked ? job.out->format : Format::bf16;
      job.out->group = asked ? options_.group : 0;
      convert(job);
    }
    if (job.imported) measure(job);
    done += job.source->n_bytes();
    touched += job.source->n_bytes();
    job.source.reset();
    if (touched > pages_kept) checkpoint_.drop_pages(), touched = 0;
    if (options_.progress) options_.progress(done, total);
  }
  if (touched > 0) checkpoint_.drop_pages();
}

}  // namespace engine
