#include "runtime/grammar.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <map>
#include <unordered_set>

#include "base/error.h"

namespace engine {
namespace {

constexpr int endless = std::numeric_limits<int>::max();

/// Levels that a sequence needs at least; a rule at its end takes none of its own.
int height_of(const Grammar::Sequence& sequence, const std::vector<int>& rule_heights) {
  int height = 0;
  for (size_t i = 0; i < sequence.size(); ++i) {
    if (!sequence[i].is_rule) {
      if (sequence[i].bytes.none()) return endless;
      continue;
    }
    const int h = rule_heights[sequence[i].rule];
    if (h == endless) return endless;
    height = std::max(height, i + 1 < sequence.size() ? h + 1 : h);
  }
  return height;
}

/// The least levels for every rule; endless: it matches no finite text.
std::vector<int> find_heights(const std::vector<std::vector<Grammar::Sequence>>& rules) {
  std::vector<std::vector<Grammar::RuleId>> users(rules.size());
  for (Grammar::RuleId r = 0; r < rules.size(); ++r) {
    for (const Grammar::Sequence& sequence : rules[r]) {
      for (const Grammar::Element& e : sequence) {
        if (e.is_rule && (users[e.rule].empty() || users[e.rule].back() != r)) users[e.rule].push_back(r);
      }
    }
  }
  std::vector<int> heights(rules.size(), endless);
  std::deque<Grammar::RuleId> waiting;
  std::vector<bool> waits(rules.size(), true);
  for (Grammar::RuleId r = 0; r < rules.size(); ++r) waiting.push_back(r);
  while (!waiting.empty()) {
    const Grammar::RuleId r = waiting.front();
    waiting.pop_front();
    waits[r] = false;
    int height = endless;
    for (const Grammar::Sequence& sequence : rules[r]) height = std::min(height, height_of(sequence, heights));
    if (height >= heights[r]) continue;
    heights[r] = height;
    for (const Grammar::RuleId user : users[r]) {
      if (!waits[user]) waiting.push_back(user);
      waits[user] = true;
    }
  }
  return heights;
}

}  // namespace

Grammar::RuleId Grammar::Builder::add_rule() {
  if (rules_.size() >= max_rules) throw Error("grammar: expected at most " + std::to_string(max_rules) + " rules, got more");
  rules_.emplace_back();
  return static_cast<RuleId>(rules_.size() - 1);
}

Grammar::RuleId Grammar::Builder::add_rule(std::vector<Sequence> alternatives) {
  const RuleId rule = add_rule();
  for (Sequence& sequence : alternatives) add_alternative(rule, std::move(sequence));
  return rule;
}

void Grammar::Builder::add_alternative(RuleId rule, Sequence sequence) {
  n_elements_ += sequence.size() + 1;
  if (n_elements_ > max_elements) throw Error("grammar: expected at most " + std::to_string(max_elements) + " elements, got more");
  rules_[rule].push_back(std::move(sequence));
}

Grammar::RuleId Grammar::Builder::add_grammar(const Grammar& grammar) {
  const auto first = static_cast<RuleId>(rules_.size());
  for (size_t r = 0; r < grammar.rules_.size(); ++r) add_rule();
  for (RuleId r = 0; r < grammar.rules_.size(); ++r) {
    for (const Alternative& alternative : grammar.rules_[r]) {
      Sequence sequence;
      for (uint32_t at = alternative.first; grammar.steps_[at].kind != Kind::end; ++at) {
        const Step& step = grammar.steps_[at];
        sequence.push_back(step.kind == Kind::rule ? Element::of(first + step.index) : Element::of(grammar.sets_[step.index]));
      }
      add_alternative(first + r, std::move(sequence));
    }
  }
  return first + grammar.start_;
}

std::shared_ptr<const Grammar> Grammar::Builder::finish(RuleId start) {
  const std::vector<int> heights = find_heights(rules_);
  if (heights[start] > max_depth) {
    throw Error(heights[start] == endless ? "grammar: expected one that a finite text can satisfy"
                                          : "grammar: expected at most " + std::to_string(max_depth) + " levels, got more");
  }
  auto grammar = std::make_shared<Grammar>();
  grammar->start_ = start;
  grammar->rules_.resize(rules_.size());
  std::unordered_map<ByteSet, uint32_t> set_ids;
  for (RuleId r = 0; r < rules_.size(); ++r) {
    for (const Sequence& sequence : rules_[r]) {
      const int height = height_of(sequence, heights);
      if (height == endless) continue;
      grammar->rules_[r].push_back({static_cast<uint32_t>(grammar->steps_.size()), height});
      for (const Element& e : sequence) {
        if (e.is_rule) {
          grammar->steps_.push_back({Kind::rule, e.rule});
          continue;
        }
        const auto [found, fresh] = set_ids.try_emplace(e.bytes, static_cast<uint32_t>(grammar->sets_.size()));
        if (fresh) grammar->sets_.push_back(e.bytes);
        grammar->steps_.push_back({Kind::bytes, found->second});
      }
      grammar->steps_.push_back({Kind::end, 0});
    }
  }
  // Classes: split by one set after the other.
  size_t n_classes = 1;
  for (const ByteSet& set : grammar->sets_) {
    std::map<std::pair<uint8_t, bool>, uint8_t> parts;
    for (int byte = 0; byte < 256; ++byte) {
      const std::pair<uint8_t, bool> part(grammar->class_of_[byte], set[static_cast<size_t>(byte)]);
      grammar->class_of_[byte] = parts.try_emplace(part, static_cast<uint8_t>(parts.size())).first->second;
    }
    n_classes = parts.size();
  }
  grammar->n_classes_ = n_classes;
  for (const ByteSet& set : grammar->sets_) {
    std::vector<bool>& has = grammar->set_has_class_.emplace_back(n_classes, false);
    for (size_t byte = 0; byte < 256; ++byte) {
      if (set[byte]) has[grammar->class_of_[byte]] = true;
    }
  }
  return grammar;
}

// --- matching ---------------------------------------------------------------------------------------------------------------

GrammarMatcher::GrammarMatcher(std::shared_ptr<const Grammar> grammar) : grammar_(std::move(grammar)), nodes_(1, Node{0, 0, 0}) {
  State first;
  std::unordered_set<uint64_t> seen;
  bool possible = true;
  for (const Grammar::Alternative& alternative : grammar_->rules_[grammar_->start_]) {
    if (alternative.height <= Grammar::max_depth) possible = possible && expand(alternative.first, 0, seen, first);
  }
  if (!possible) throw Error("grammar: expected at most " + std::to_string(max_tops) + " ways to begin, got more");
  current_ = intern(std::move(first));
}

GrammarMatcher::NodeId GrammarMatcher::node(uint32_t step, NodeId below) {
  const auto [found, fresh] = node_ids_.try_emplace(uint64_t{below} << 32 | step, static_cast<NodeId>(nodes_.size()));
  if (fresh) nodes_.push_back({step, below, nodes_[below].depth + 1});
  return found->second;
}

bool GrammarMatcher::expand(uint32_t step, NodeId below, std::unordered_set<uint64_t>& seen, State& out) {
  std::vector<std::pair<uint32_t, NodeId>> waiting{{step, below}};
  while (!waiting.empty()) {
    auto [at, stack] = waiting.back();
    waiting.pop_back();
    if (!seen.insert(uint64_t{stack} << 32 | at).second) continue;
    if (seen.size() > 16 * max_tops || nodes_.size() > 4 * max_nodes) return false;
    const Grammar::Step& here = grammar_->steps_[at];
    if (here.kind == Grammar::Kind::end) {
      if (stack == 0) out.complete = true;
      else waiting.emplace_back(nodes_[stack].step, nodes_[stack].below);
    } else if (here.kind == Grammar::Kind::bytes) {
      out.tops.push_back(node(at, stack));
    } else {
      const NodeId after = grammar_->steps_[at + 1].kind == Grammar::Kind::end ? stack : node(at + 1, stack);
      for (const Grammar::Alternative& alternative : grammar_->rules_[here.index]) {
        if (nodes_[after].depth + alternative.height <= Grammar::max_depth) waiting.emplace_back(alternative.first, after);
      }
    }
  }
  return out.tops.size() <= max_tops;
}

GrammarMatcher::StateId GrammarMatcher::intern(State state) {
  std::sort(state.tops.begin(), state.tops.end());
  state.tops.erase(std::unique(state.tops.begin(), state.tops.end()), state.tops.end());
  if (state.tops.empty() && !state.complete) return dead;
  std::string key(reinterpret_cast<const char*>(state.tops.data()), state.tops.size() * sizeof(NodeId));
  key.push_back(state.complete ? 1 : 0);
  const auto [found, fresh] = state_ids_.try_emplace(std::move(key), static_cast<StateId>(states_.size()));
  if (fresh) {
    next_.resize(next_.size() + grammar_->n_classes_, unknown);
    states_.push_back(std::move(state));
  }
  return found->second;
}

GrammarMatcher::StateId GrammarMatcher::compute(uint8_t byte_class) {
  make_room();
  const StateId from = trial_.empty() ? current_ : trial_.back();
  State reached;
  std::unordered_set<uint64_t> seen;
  bool possible = true;
  for (const NodeId top : states_[from].tops) {
    const Node at = nodes_[top];
    if (!grammar_->set_has_class_[grammar_->steps_[at.step].index][byte_class]) continue;
    possible = possible && expand(at.step + 1, at.below, seen, reached);
  }
  const StateId to = possible ? intern(std::move(reached)) : dead;
  next_[from * grammar_->n_classes_ + byte_class] = to;
  return to;
}

/// Forgets all but the states in use, once there are too many.
void GrammarMatcher::make_room() {
  if (states_.size() < max_states && nodes_.size() < max_nodes) return;
  const std::vector<Node> old_nodes = std::move(nodes_);
  std::vector<State> old_states = std::move(states_);
  nodes_.assign(1, Node{0, 0, 0});
  states_.clear();
  next_.clear();
  node_ids_.clear();
  state_ids_.clear();
  std::unordered_map<NodeId, NodeId> moved{{0, 0}};
  const auto move_node = [&](NodeId id) {
    std::vector<NodeId> path;
    for (; !moved.contains(id); id = old_nodes[id].below) path.push_back(id);
    NodeId at = moved[id];
    for (; !path.empty(); path.pop_back()) at = moved[path.back()] = node(old_nodes[path.back()].step, at);
    return at;
  };
  std::unordered_map<StateId, StateId> moved_states;
  const auto move_state = [&](StateId& id) {
    const auto found = moved_states.find(id);
    if (found != moved_states.end()) {
      id = found->second;
      return;
    }
    State state;
    state.complete = old_states[id].complete;
    for (const NodeId top : old_states[id].tops) state.tops.push_back(move_node(top));
    id = moved_states[id] = intern(std::move(state));
  };
  move_state(current_);
  for (StateId& id : trial_) move_state(id);
}

bool GrammarMatcher::accepts(std::string_view bytes) {
  begin_trial();
  return std::all_of(bytes.begin(), bytes.end(), [this](char c) { return extend_trial(static_cast<uint8_t>(c)); });
}

bool GrammarMatcher::advance(std::string_view bytes) {
  const bool possible = accepts(bytes);
  if (possible && !bytes.empty()) current_ = trial_.back();
  begin_trial();
  return possible;
}

}  // namespace engine
