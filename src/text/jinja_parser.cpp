// Tokens to tree. The grammar and its corners (what a filter binds to, where a tuple ends, that `not x is y` negates
// the test) follow Jinja's.
#include <optional>

#include "base/error.h"
#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

namespace engine::jinja {

namespace {

constexpr size_t max_signature = 500;

class Parser {
 public:
  Parser(std::vector<Token> tokens, Ast& ast) : tokens_(std::move(tokens)), ast_(ast) {}

  void run() { ast_.body = statements({}); }

 private:
  using Names = std::vector<std::string_view>;

  // --- tokens --------------------------------------------------------------------------------------------------------
  const Token& current() const { return tokens_[pos_]; }
  const Token& look() const { return tokens_[std::min(pos_ + 1, tokens_.size() - 1)]; }
  const Token& next() {
    const Token& token = tokens_[pos_];
    if (pos_ + 1 < tokens_.size()) ++pos_;
    return token;
  }
  bool at(Tok type) const { return current().type == type; }
  bool at_name(std::string_view name) const { return at(Tok::name) && current().text == name; }
  bool at_any_name(const Names& names) const {
    for (const auto name : names) {
      if (at_name(name)) return true;
    }
    return false;
  }
  bool skip_if(Tok type) { return at(type) ? (next(), true) : false; }
  bool skip_if_name(std::string_view name) { return at_name(name) ? (next(), true) : false; }

  [[noreturn]] void fail(const std::string& message) const { syntax_error(current().line, message); }
  const Token& expect(Tok type) {
    if (!at(type)) fail_expected(std::string(describe(type)));
    return next();
  }
  void expect_name(std::string_view name) {
    if (!at_name(name)) fail_expected(std::string(name));
    next();
  }
  [[noreturn]] void fail_expected(const std::string& what) const {
    if (at(Tok::eof)) fail("unexpected end of template, expected '" + what + "'");
    fail("expected token '" + what + "', got '" + describe(current()) + "'");
  }

  // --- nodes ---------------------------------------------------------------------------------------------------------
  Expr* make(ExprType type, int line) {
    Expr& e = ast_.exprs.emplace_back();
    e.type = type;
    e.line = line;
    return &e;
  }
  /// Sets the height from the parts; called when a node is complete.
  Expr* done(Expr* e) {
    int height = 0;
    const auto see = [&](const Expr* part) {
      if (part != nullptr) height = std::max(height, part->height);
    };
    see(e->a), see(e->b), see(e->c), see(e->d), see(e->args.star), see(e->args.star_star);
    for (const Expr* part : e->items) see(part);
    for (const Expr* part : e->args.positional) see(part);
    for (const Keyword& k : e->args.named) see(k.value);
    e->height = height + 1;
    if (e->height > max_tree_height) syntax_error(e->line, "expression is nested too deeply");
    return e;
  }
  Expr* binary(ExprType type, Expr* left, Expr* right) {
    Expr* e = make(type, left->line);
    e->a = left;
    e->b = right;
    return done(e);
  }
  Stmt* make(StmtType type, int line) {
    Stmt& s = ast_.stmts.emplace_back();
    s.type = type;
    s.line = line;
    return &s;
  }
  Expr* constant(Value v, int line) {
    Expr* e = make(ExprType::constant, line);
    e->constant = std::move(v);
    return e;
  }
  Value string_value(std::string text) {
    return Value::share(&ast_.strings.emplace_back(nullptr, std::move(text), true));
  }

  struct Nest {
    explicit Nest(Parser& p) : parser(p) {
      if (++parser.depth_ > max_source_nesting)
        parser.fail("nested too deeply: expected at most " + std::to_string(max_source_nesting) + " levels");
    }
    ~Nest() { --parser.depth_; }
    Parser& parser;
  };

  // --- statements ----------------------------------------------------------------------------------------------------
  /// Up to one of the end tags, whose name is then the current token; to the end of the template if there are none.
  std::vector<Stmt*> statements(const Names& end_tags) {
    Nest nest(*this);
    std::vector<Stmt*> body;
    Stmt* output = nullptr;
    while (!at(Tok::eof)) {
      const Token& token = current();
      if (token.type == Tok::data) {
        Stmt* s = make(StmtType::text, token.line);
        s->text = &ast_.strings.emplace_back(nullptr, std::string(token.text), true);
        body.push_back(s);
        output = nullptr;
        next();
      } else if (token.type == Tok::variable_begin) {
        next();
        if (output == nullptr) body.push_back(output = make(StmtType::output, token.line));
        output->exprs.push_back(tuple());
        expect(Tok::variable_end);
      } else {
        output = nullptr;
        expect(Tok::block_begin);
        if (at_any_name(end_tags)) return body;
        body.push_back(statement());
        expect(Tok::block_end);
      }
    }
    if (!end_tags.empty()) fail_end(end_tags, "Unexpected end of template.");
    return body;
  }

  [[noreturn]] void fail_end(const Names& looking_for, std::string message) const {
    if (!looking_for.empty()) {
      message += " Looking for:";
      for (const auto name : looking_for) message += " '" + std::string(name) + "'";
      message += ".";
    }
    if (!open_tags_.empty()) message += " The innermost block that needs to be closed is '" + open_tags_.back() + "'.";
    fail(message);
  }

  std::vector<Stmt*> block_body(const Names& end_tags) {
    skip_if(Tok::colon);
    expect(Tok::block_end);
    return statements(end_tags);
  }
  std::vector<Stmt*> block_body_to(std::string_view end_tag) {
    std::vector<Stmt*> body = block_body({end_tag});
    next();
    return body;
  }

  Stmt* statement() {
    if (!at(Tok::name)) fail("tag name expected");
    struct Row {
      std::string_view tag;
      Stmt* (Parser::*parse)();
    };
    static constexpr Row rows[] = {{"for", &Parser::for_statement},
                                   {"if", &Parser::if_statement},
                                   {"set", &Parser::set_statement},
                                   {"macro", &Parser::macro_statement},
                                   {"call", &Parser::call_statement},
                                   {"filter", &Parser::filter_statement},
                                   {"with", &Parser::with_statement},
                                   {"print", &Parser::print_statement},
                                   {"generation", &Parser::generation_statement},
                                   {"break", &Parser::loop_control},
                                   {"continue", &Parser::loop_control},
                                   {"block", &Parser::block_statement},
                                   {"extends", &Parser::loader_statement},
                                   {"include", &Parser::loader_statement},
                                   {"import", &Parser::loader_statement},
                                   {"from", &Parser::loader_statement}};
    for (const Row& row : rows) {
      if (!at_name(row.tag)) continue;
      open_tags_.emplace_back(row.tag);
      Stmt* s = (this->*row.parse)();
      open_tags_.pop_back();
      return s;
    }
    fail_end({}, "Encountered unknown tag '" + current().text + "'.");
  }

  Stmt* for_statement() {
    Stmt* s = make(StmtType::for_, next().line);
    s->target = assign_target(true, false, true);
    expect_name("in");
    s->expr = tuple(false, "recursive");
    if (skip_if_name("if")) s->test = expression();
    s->recursive = skip_if_name("recursive");
    s->body = block_body({"endfor", "else"});
    if (next().text != "endfor") s->else_body = block_body_to("endfor");
    return s;
  }

  Stmt* if_statement() {
    Stmt* s = make(StmtType::if_, current().line);
    next();
    while (true) {
      Expr* test = tuple(false);
      s->branches.push_back({test, block_body({"elif", "else", "endif"})});
      const std::string tag = next().text;
      if (tag == "elif") continue;
      if (tag == "else") s->branches.push_back({nullptr, block_body_to("endif")});
      return s;
    }
  }

  Stmt* set_statement() {
    const int line = next().line;
    Expr* target = assign_target(true, true, false);
    if (skip_if(Tok::assign)) {
      Stmt* s = make(StmtType::set, line);
      s->target = target;
      s->expr = tuple();
      return s;
    }
    Stmt* s = make(StmtType::set_block, line);
    s->target = target;
    s->expr = filter_chain(nullptr, false);
    s->body = block_body_to("endset");
    return s;
  }

  Stmt* with_statement() {
    Stmt* s = make(StmtType::with, next().line);
    while (!at(Tok::block_end)) {
      if (!s->exprs.empty()) expect(Tok::comma);
      Expr* target = assign_target(true, false, false);
      mark_parameter(target);
      s->exprs.push_back(target);
      expect(Tok::assign);
      s->values.push_back(expression());
    }
    s->body = block_body_to("endwith");
    return s;
  }

  static void mark_parameter(Expr* target) {
    target->parameter = true;
    for (Expr* part : target->items) mark_parameter(part);
  }

  void signature(Function& f) {
    expect(Tok::lparen);
    while (!at(Tok::rparen)) {
      if (!f.parameters.empty()) expect(Tok::comma);
      Expr* parameter = name_target();
      parameter->parameter = true;
      if (skip_if(Tok::assign)) {
        f.defaults.push_back(expression());
      } else if (!f.defaults.empty()) {
        fail("non-default argument follows default argument");
      }
      for (const Expr* other : f.parameters) {
        if (other->name == parameter->name) fail("duplicate argument '" + std::string(parameter->name->text) + "'");
      }
      if (f.parameters.size() >= max_signature) fail("too many arguments");
      f.parameters.push_back(parameter);
    }
    expect(Tok::rparen);
  }

  Stmt* macro_statement() {
    Stmt* s = make(StmtType::macro, next().line);
    s->function = std::make_unique<Function>();
    s->target = name_target();
    s->function->name = s->target->name;
    signature(*s->function);
    s->body = block_body_to("endmacro");
    return s;
  }

  Stmt* call_statement() {
    Stmt* s = make(StmtType::call_block, next().line);
    s->function = std::make_unique<Function>();
    if (at(Tok::lparen)) signature(*s->function);
    s->expr = expression();
    if (s->expr->type != ExprType::call) syntax_error(s->line, "expected call");
    s->body = block_body_to("endcall");
    return s;
  }

  Stmt* generation_statement() {
    Stmt* s = make(StmtType::generation, next().line);
    s->function = std::make_unique<Function>();
    s->body = block_body_to("endgeneration");
    return s;
  }

  Stmt* filter_statement() {
    Stmt* s = make(StmtType::filter_block, next().line);
    s->expr = filter_chain(nullptr, true);
    s->body = block_body_to("endfilter");
    return s;
  }

  Stmt* print_statement() {
    Stmt* s = make(StmtType::output, next().line);
    while (!at(Tok::block_end)) {
      if (!s->exprs.empty()) expect(Tok::comma);
      s->exprs.push_back(expression());
    }
    return s;
  }

  Stmt* loop_control() {
    const Token& token = next();
    return make(token.text == "break" ? StmtType::break_ : StmtType::continue_, token.line);
  }

  Stmt* block_statement() {
    Stmt* s = make(StmtType::block, next().line);
    s->text = ast_.intern(expect(Tok::name).text);
    if (at_name("scoped") || at_name("required")) fail("'" + current().text + "' blocks are not supported");
    s->function = std::make_unique<Function>();
    s->body = block_body_to("endblock");
    skip_if_name(s->text->text);
    ast_.has_blocks = true;
    return s;
  }

  /// extends, include, import, from: there is nothing to load from. As in Jinja that is an error only when it is
  /// reached.
  Stmt* loader_statement() {
    const Token& token = next();
    Stmt* s = make(StmtType::loader, token.line);
    s->text = ast_.intern(token.text);
    expression();
    while (!at(Tok::block_end) && !at(Tok::eof)) next();
    return s;
  }

  // --- targets -------------------------------------------------------------------------------------------------------
  Expr* name_target() {
    const Token& token = expect(Tok::name);
    if (is_literal_name(token.text)) syntax_error(token.line, "can't assign to 'const'");
    Expr* e = make(ExprType::name, token.line);
    e->name = ast_.intern(token.text);
    e->store = true;
    return e;
  }

  Expr* assign_target(bool with_tuple, bool with_namespace, bool ends_at_in) {
    const int line = current().line;
    std::vector<Expr*> parts;
    bool is_tuple = false;
    while (true) {
      if (!parts.empty()) expect(Tok::comma);
      if (at(Tok::variable_end) || at(Tok::block_end) || at(Tok::rparen) || (ends_at_in && at_name("in"))) break;
      parts.push_back(target_part(with_namespace));
      if (!with_tuple || !at(Tok::comma)) break;
      is_tuple = true;
    }
    if (!is_tuple && parts.empty()) fail("Expected an expression, got '" + describe(current()) + "'");
    if (!is_tuple) return parts[0];
    Expr* e = make(ExprType::tuple, line);
    e->items = std::move(parts);
    e->store = true;
    return done(e);
  }

  Expr* target_part(bool with_namespace) {
    if (at(Tok::lparen)) {
      Nest nest(*this);
      next();
      Expr* e = assign_target(true, false, false);
      expect(Tok::rparen);
      return e;
    }
    if (!at(Tok::name)) fail("can't assign to '" + describe(current()) + "'");
    Expr* e = name_target();
    if (with_namespace && skip_if(Tok::dot)) {
      e->type = ExprType::namespace_ref;
      e->field = ast_.intern(expect(Tok::name).text);
    }
    return e;
  }

  static bool is_literal_name(std::string_view name) {
    return name == "true" || name == "false" || name == "True" || name == "False" || name == "none" || name == "None";
  }

  // --- expressions ---------------------------------------------------------------------------------------------------
  Expr* expression(bool with_condition = true) {
    Nest nest(*this);
    Expr* value = logical_or();
    while (with_condition && skip_if_name("if")) {
      Expr* e = make(ExprType::cond, value->line);
      e->a = logical_or();
      e->b = value;
      if (skip_if_name("else")) e->c = expression();
      value = done(e);
    }
    return value;
  }

  Expr* logical_or() {
    Expr* left = logical_and();
    while (skip_if_name("or")) left = binary(ExprType::logical_or, left, logical_and());
    return left;
  }

  Expr* logical_and() {
    Expr* left = logical_not();
    while (skip_if_name("and")) left = binary(ExprType::logical_and, left, logical_not());
    return left;
  }

  Expr* logical_not() {
    if (!at_name("not")) return compare();
    Nest nest(*this);
    Expr* e = make(ExprType::logical_not, next().line);
    e->a = logical_not();
    return done(e);
  }

  Expr* compare() {
    Expr* left = sum();
    Expr* e = nullptr;
    while (true) {
      std::optional<CompareOp> op;
      switch (current().type) {
        case Tok::eq:
          op = CompareOp::eq;
          break;
        case Tok::ne:
          op = CompareOp::ne;
          break;
        case Tok::lt:
          op = CompareOp::lt;
          break;
        case Tok::le:
          op = CompareOp::le;
          break;
        case Tok::gt:
          op = CompareOp::gt;
          break;
        case Tok::ge:
          op = CompareOp::ge;
          break;
        default:
          if (at_name("in")) {
            op = CompareOp::in;
          } else if (at_name("not") && look().type == Tok::name && look().text == "in") {
            next();
            op = CompareOp::not_in;
          }
      }
      if (!op) return e != nullptr ? done(e) : left;
      next();
      if (e == nullptr) {
        e = make(ExprType::compare, left->line);
        e->a = left;
      }
      e->ops.push_back(*op);
      e->items.push_back(sum());
    }
  }

  /// A chain of + is one node with all its operands: most templates are made of them.
  Expr* sum() {
    Expr* left = concat();
    while (at(Tok::add) || at(Tok::sub)) {
      if (next().type == Tok::sub) {
        left = binary(ExprType::sub, left, concat());
        continue;
      }
      Expr* e = make(ExprType::add, left->line);
      e->items = {left, concat()};
      while (skip_if(Tok::add)) e->items.push_back(concat());
      left = done(e);
    }
    return left;
  }

  Expr* concat() {
    Expr* first = product();
    if (!at(Tok::tilde)) return first;
    Expr* e = make(ExprType::concat, first->line);
    e->items.push_back(first);
    while (skip_if(Tok::tilde)) e->items.push_back(product());
    return done(e);
  }

  Expr* product() {
    Expr* left = power();
    while (true) {
      ExprType type;
      switch (current().type) {
        case Tok::mul:
          type = ExprType::mul;
          break;
        case Tok::div:
          type = ExprType::div;
          break;
        case Tok::floordiv:
          type = ExprType::floordiv;
          break;
        case Tok::mod:
          type = ExprType::mod;
          break;
        default:
          return left;
      }
      next();
      left = binary(type, left, power());
    }
  }

  Expr* power() {
    // Jinja nests to the left here, but it writes the Python source `a ** b ** c`-like with parentheses of its own: ((a
    // ** b) ** c).
    Expr* left = unary(true);
    while (skip_if(Tok::pow)) left = binary(ExprType::pow, left, unary(true));
    return left;
  }

  Expr* unary(bool with_filter) {
    Expr* e;
    if (at(Tok::sub) || at(Tok::add)) {
      Nest nest(*this);
      const Token& token = next();
      e = make(token.type == Tok::sub ? ExprType::neg : ExprType::pos, token.line);
      e->a = unary(false);
      done(e);
    } else {
      e = primary();
    }
    e = postfix(e);
    return with_filter ? filters_and_tests(e) : e;
  }

  Expr* primary() {
    const Token& token = current();
    switch (token.type) {
      case Tok::name: {
        next();
        if (token.text == "true" || token.text == "True") return constant(Value::boolean(true), token.line);
        if (token.text == "false" || token.text == "False") return constant(Value::boolean(false), token.line);
        if (token.text == "none" || token.text == "None") return constant(Value::none(), token.line);
        Expr* e = make(ExprType::name, token.line);
        e->name = ast_.intern(token.text);
        return e;
      }
      case Tok::string: {
        std::string text;
        while (at(Tok::string)) text += next().text;
        return constant(string_value(std::move(text)), token.line);
      }
      case Tok::integer:
        next();
        return constant(Value::integer(token.integer), token.line);
      case Tok::real:
        next();
        return constant(Value::real(token.real), token.line);
      case Tok::lparen: {
        next();
        Expr* e = tuple(true, {}, true);
        expect(Tok::rparen);
        return e;
      }
      case Tok::lbracket:
        return list();
      case Tok::lbrace:
        return dict();
      default:
        fail("unexpected '" + describe(token) + "'");
    }
  }

  bool tuple_ends(std::string_view end_name) const {
    return at(Tok::variable_end) || at(Tok::block_end) || at(Tok::rparen) || (!end_name.empty() && at_name(end_name));
  }

  Expr* tuple(bool with_condition = true, std::string_view end_name = {}, bool parenthesized = false) {
    const int line = current().line;
    std::vector<Expr*> items;
    bool is_tuple = false;
    while (true) {
      if (!items.empty()) expect(Tok::comma);
      if (tuple_ends(end_name)) break;
      items.push_back(expression(with_condition));
      if (!at(Tok::comma)) break;
      is_tuple = true;
    }
    if (!is_tuple && !items.empty()) return items[0];
    if (!is_tuple && !parenthesized) fail("Expected an expression, got '" + describe(current()) + "'");
    Expr* e = make(ExprType::tuple, line);
    e->items = std::move(items);
    return done(e);
  }

  Expr* list() {
    Expr* e = make(ExprType::list, expect(Tok::lbracket).line);
    while (!at(Tok::rbracket)) {
      if (!e->items.empty()) expect(Tok::comma);
      if (at(Tok::rbracket)) break;
      e->items.push_back(expression());
    }
    expect(Tok::rbracket);
    return done(e);
  }

  Expr* dict() {
    Expr* e = make(ExprType::dict, expect(Tok::lbrace).line);
    while (!at(Tok::rbrace)) {
      if (!e->items.empty()) expect(Tok::comma);
      if (at(Tok::rbrace)) break;
      e->items.push_back(expression());
      expect(Tok::colon);
      e->items.push_back(expression());
    }
    expect(Tok::rbrace);
    return done(e);
  }

  Expr* postfix(Expr* e) {
    while (true) {
      if (at(Tok::dot) || at(Tok::lbracket)) {
        e = subscript(e);
      } else if (at(Tok::lparen)) {
        e = call(e);
      } else {
        return e;
      }
    }
  }

  Expr* filters_and_tests(Expr* e) {
    while (true) {
      if (at(Tok::pipe)) {
        e = filter_chain(e, false);
      } else if (at_name("is")) {
        e = test(e);
      } else if (at(Tok::lparen)) {
        e = call(e);
      } else {
        return e;
      }
    }
  }

  Expr* subscript(Expr* object) {
    const Token& token = next();
    if (token.type == Tok::dot) {
      const Token& name = next();
      if (name.type == Tok::name) {
        Expr* e = make(ExprType::attribute, token.line);
        e->a = object;
        e->name = ast_.intern(name.text);
        return done(e);
      }
      if (name.type != Tok::integer) syntax_error(name.line, "expected name or number");
      Expr* e = make(ExprType::item, token.line);
      e->a = object;
      e->b = constant(Value::integer(name.integer), name.line);
      return done(e);
    }
    std::vector<Expr*> parts;
    while (!at(Tok::rbracket)) {
      if (!parts.empty()) expect(Tok::comma);
      parts.push_back(subscript_part(object, parts.empty()));
    }
    expect(Tok::rbracket);
    if (parts.size() == 1 && parts[0]->type == ExprType::slice && parts[0]->a == object) return done(parts[0]);
    Expr* e = make(ExprType::item, token.line);
    e->a = object;
    if (parts.size() == 1) {
      e->b = parts[0];
    } else {
      e->b = make(ExprType::tuple, token.line);
      e->b->items = std::move(parts);
      for (const Expr* part : e->b->items) {
        if (part->type == ExprType::slice && part->a == object) fail("a slice cannot be part of a tuple index");
      }
      done(e->b);
    }
    return done(e);
  }

  /// An index, or `start:stop:step` as a slice of `object`.
  Expr* subscript_part(Expr* object, bool may_slice) {
    const int line = current().line;
    Expr* start = nullptr;
    if (!at(Tok::colon)) {
      start = expression();
      if (!at(Tok::colon)) return start;
    }
    if (!may_slice) fail("a slice cannot be part of a tuple index");
    next();
    Expr* e = make(ExprType::slice, line);
    e->a = object;
    e->b = start;
    if (!at(Tok::colon) && !at(Tok::rbracket) && !at(Tok::comma)) e->c = expression();
    if (skip_if(Tok::colon) && !at(Tok::rbracket) && !at(Tok::comma)) e->d = expression();
    return e;
  }

  void call_arguments(Arguments* args) {
    const int line = expect(Tok::lparen).line;
    const auto ensure = [&](bool ok) {
      if (!ok) syntax_error(line, "invalid syntax for function call expression");
    };
    bool require_comma = false;
    while (!at(Tok::rparen)) {
      if (require_comma) {
        expect(Tok::comma);
        if (at(Tok::rparen)) break;
      }
      if (at(Tok::mul)) {
        ensure(args->star == nullptr && args->star_star == nullptr);
        next();
        args->star = expression();
      } else if (at(Tok::pow)) {
        ensure(args->star_star == nullptr);
        next();
        args->star_star = expression();
      } else if (at(Tok::name) && look().type == Tok::assign) {
        ensure(args->star_star == nullptr);
        const String* name = ast_.intern(next().text);
        next();
        for (const Keyword& k : args->named) {
          if (k.name == name) fail("keyword argument repeated: " + std::string(name->text));
        }
        if (args->named.size() >= max_signature) fail("too many arguments");
        args->named.push_back({name, expression()});
      } else {
        ensure(args->star == nullptr && args->star_star == nullptr && args->named.empty());
        args->positional.push_back(expression());
      }
      require_comma = true;
    }
    expect(Tok::rparen);
  }

  Expr* call(Expr* callee) {
    Expr* e = make(ExprType::call, current().line);
    e->a = callee;
    call_arguments(&e->args);
    return done(e);
  }

  std::string dotted_name() {
    std::string name = expect(Tok::name).text;
    while (skip_if(Tok::dot)) name += "." + expect(Tok::name).text;
    return name;
  }

  /// Filters after `value`; with `inline_start` the first has no bar (the filter tag). Null if there are none and no
  /// value.
  Expr* filter_chain(Expr* value, bool inline_start) {
    while (inline_start || at(Tok::pipe)) {
      if (!inline_start) next();
      inline_start = false;
      Expr* e = make(ExprType::filter, current().line);
      e->name = ast_.intern(dotted_name());
      e->a = value;
      if (at(Tok::lparen)) call_arguments(&e->args);
      value = done(e);
    }
    return value;
  }

  Expr* test(Expr* value) {
    const int line = next().line;
    const bool negated = skip_if_name("not");
    Expr* e = make(ExprType::test, line);
    e->a = value;
    e->name = ast_.intern(dotted_name());
    if (at(Tok::lparen)) {
      call_arguments(&e->args);
    } else if ((at(Tok::name) && !at_any_name({"else", "or", "and"})) || at(Tok::string) || at(Tok::integer) ||
               at(Tok::real) || at(Tok::lbracket) || at(Tok::lbrace)) {
      if (at_name("is")) fail("You cannot chain multiple tests with is");
      e->args.positional.push_back(postfix(primary()));
    }
    done(e);
    if (!negated) return e;
    Expr* opposite = make(ExprType::logical_not, line);
    opposite->a = e;
    return done(opposite);
  }

  std::vector<Token> tokens_;
  size_t pos_ = 0;
  Ast& ast_;
  int depth_ = 0;
  std::vector<std::string> open_tags_;
};

}  // namespace

std::unique_ptr<Ast> parse_template(std::string_view source) {
  auto ast = std::make_unique<Ast>();
  Parser(tokenize(source), *ast).run();
  resolve_names(*ast);
  return ast;
}

}  // namespace engine::jinja
