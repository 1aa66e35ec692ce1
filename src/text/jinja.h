// Jinja templates with Python's semantics, as Hugging Face Transformers sets them up for chat templates
// (ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks, loopcontrols, generation tag, tojson, raise_exception,
// strftime_now).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace engine {

/// Bounds on what a template may use up. Going over one is an Error, never a hang.
struct JinjaLimits {
  uint64_t max_steps = 50'000'000;             // evaluated nodes and loop turns
  int max_depth = 200;                         // calls inside calls: macros, recursive loops
  size_t max_output_bytes = size_t{64} << 20;  // also of each string; four times as much of all variables together
  size_t max_range = 1'000'000;                // items of a range() or a repeated sequence
};

/// A part of rendered text. `trusted`: written by the template's author (literals, or the model's own settings);
/// otherwise the characters came from the context's untrusted variables (message contents, tools, documents, ...),
/// whatever filters they went through.
struct TextSpan {
  std::string text;
  bool trusted = true;
};

/// A parsed template. Immutable; render may run on several threads at once.
class JinjaTemplate {
 public:
  /// Throws Error with line number on a syntax error.
  explicit JinjaTemplate(std::string_view source);
  ~JinjaTemplate();
  JinjaTemplate(JinjaTemplate&&) noexcept;
  JinjaTemplate& operator=(JinjaTemplate&&) noexcept;

  struct Options {
    JinjaLimits limits;
    std::string now;  // ISO date-time, the clock of strftime_now; empty: the system's local time
    /// Top-level context variables whose strings are trusted (the tokenizer's own bos_token, eos_token, ...). All else
    /// is untrusted.
    std::vector<std::string> trusted_variables = {"bos_token", "eos_token", "pad_token", "unk_token",
                                                  "sep_token", "cls_token", "mask_token"};
    /// Values of `role` in `messages` that count as trusted: templates such as Phi-4's build control tokens from them
    /// ('<|' + role + '|>'). A role that is none of these words is text like any other.
    std::vector<std::string> trusted_roles = {"system",    "user",     "assistant", "tool",
                                              "developer", "function", "model",     "ipython"};
  };

  /// A variable, not copied: its value must live until render returns.
  struct Variable {
    std::string_view name;
    const Json* value;
  };
  using Variables = std::vector<Variable>;  // a later one of the same name wins

  /// Renders with `context` (an object), or with single variables. Throws Error: raise_exception's message as it is, or
  /// what went wrong. Adjacent spans of equal trust are joined.
  std::vector<TextSpan> render(const Json& context, const Options& options) const;
  std::vector<TextSpan> render(const Json& context) const { return render(context, Options{}); }
  std::vector<TextSpan> render(const Variables& variables, const Options& options) const;

  /// True if the template reads the given top-level variable, or the given message role appears as a literal in it (a
  /// hint only).
  bool mentions(std::string_view name) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace engine
