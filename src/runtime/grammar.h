// Context-free grammars over bytes, and which texts begin a sentence of one: what an answer of a given form may go on with.
#pragma once

#include <bitset>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace engine {

using ByteSet = std::bitset<256>;

/// Rules, each a list of alternatives, each a sequence of byte sets and rules. Immutable once made.
class Grammar {
 public:
  static constexpr size_t max_rules = 100'000;
  static constexpr size_t max_elements = 1'000'000;
  /// Rules that are under way at once. A rule that stands last in its alternative takes no level of its own.
  static constexpr int max_depth = 128;

  using RuleId = uint32_t;

  struct Element {
    static Element of(const ByteSet& bytes) { return {bytes, 0, false}; }
    static Element of(RuleId rule) { return {{}, rule, true}; }
    ByteSet bytes;
    RuleId rule = 0;
    bool is_rule = false;
  };
  using Sequence = std::vector<Element>;

  class Builder {
   public:
    Builder() = default;
    /// A rule without alternatives: nothing matches it until some are added. Throws Error beyond the limits.
    RuleId add_rule();
    RuleId add_rule(std::vector<Sequence> alternatives);
    void add_alternative(RuleId rule, Sequence sequence);
    /// The rules of another grammar; returns its start.
    RuleId add_grammar(const Grammar& grammar);
    /// Throws Error if no finite text is a sentence.
    std::shared_ptr<const Grammar> finish(RuleId start);

   private:
    std::vector<std::vector<Sequence>> rules_;
    size_t n_elements_ = 0;
  };

 private:
  friend class GrammarMatcher;
  enum class Kind : uint8_t { end, bytes, rule };
  struct Step {
    Kind kind;
    uint32_t index;  // of the byte set or the rule
  };
  struct Alternative {
    uint32_t first;   // of its steps, which a step `end` ends
    int height;       // levels that it needs at least
  };

  std::vector<Step> steps_;
  std::vector<std::vector<Alternative>> rules_;  // alternatives that lead to an end
  std::vector<ByteSet> sets_;
  std::vector<std::vector<bool>> set_has_class_;  // [set][byte class]
  uint8_t class_of_[256] = {};                    // bytes that no set tells apart
  size_t n_classes_ = 0;
  RuleId start_ = 0;
};

/// A text on its way through a grammar: a pushdown automaton, simulated as the set of all its stacks. Sets that were met are kept with what follows
/// them, so that a byte mostly costs one look into a table. Memory is bounded; what it does depends on the text alone. Not thread-safe.
class GrammarMatcher {
 public:
  explicit GrammarMatcher(std::shared_ptr<const Grammar> grammar);

  /// Whether the text so far can go on with `bytes`; changes nothing.
  bool accepts(std::string_view bytes);
  /// Adds `bytes`; false, and nothing changed, if the text cannot go on with them.
  bool advance(std::string_view bytes);
  /// The text is a sentence.
  bool complete() const { return states_[current_].complete; }
  /// It is one, and nothing can follow.
  bool finished() const { return states_[current_].complete && states_[current_].tops.empty(); }

  // To try many texts that share beginnings: the trial is the text so far and some bytes more.
  void begin_trial() { trial_.clear(); }
  size_t trial_size() const { return trial_.size(); }
  void cut_trial(size_t n) { trial_.resize(n); }
  bool extend_trial(uint8_t byte) {  // false: not possible, the trial stays as it is
    const StateId from = trial_.empty() ? current_ : trial_.back();
    const uint8_t byte_class = grammar_->class_of_[byte];
    StateId to = next_[from * grammar_->n_classes_ + byte_class];
    if (to == unknown) to = compute(byte_class);
    if (to == dead) return false;
    trial_.push_back(to);
    return true;
  }

 private:
  using NodeId = uint32_t;   // of a stack's top; 0: an empty stack
  using StateId = uint32_t;
  static constexpr StateId dead = 0xFFFFFFFF, unknown = 0xFFFFFFFE;
  static constexpr size_t max_tops = 1024, max_states = 4096, max_nodes = size_t{1} << 18;

  struct Node {
    uint32_t step;   // where to go on
    NodeId below;
    int depth;
  };
  struct State {
    std::vector<NodeId> tops;  // each at a byte set; sorted
    bool complete = false;
  };

  NodeId node(uint32_t step, NodeId below);
  /// Follows rules from `step` on until byte sets, but not where `seen` says it has been; false beyond the limits.
  bool expand(uint32_t step, NodeId below, std::unordered_set<uint64_t>& seen, State& out);
  StateId intern(State state);
  /// What follows the trial.
  StateId compute(uint8_t byte_class);
  void make_room();

  std::shared_ptr<const Grammar> grammar_;
  std::vector<Node> nodes_;
  std::unordered_map<uint64_t, NodeId> node_ids_;
  std::vector<State> states_;
  std::vector<StateId> next_;  // [state][byte class]
  std::unordered_map<std::string, StateId> state_ids_;
  StateId current_ = 0;
  std::vector<StateId> trial_;
};

}  // namespace engine
