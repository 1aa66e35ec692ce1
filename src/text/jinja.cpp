#include "text/jinja.h"

#include "base/error.h"
#include "text/jinja_ast.h"
#include "text/jinja_eval.h"
#include "text/jinja_unicode.h"

namespace engine {

struct JinjaTemplate::Impl {
  std::unique_ptr<jinja::Ast> ast;
};

JinjaTemplate::JinjaTemplate(std::string_view source) : impl_(std::make_unique<Impl>()) {
  impl_->ast =
      jinja::utf8_valid(source) ? jinja::parse_template(source) : jinja::parse_template(jinja::utf8_sanitize(source));
}

JinjaTemplate::~JinjaTemplate() = default;
JinjaTemplate::JinjaTemplate(JinjaTemplate&&) noexcept = default;
JinjaTemplate& JinjaTemplate::operator=(JinjaTemplate&&) noexcept = default;

std::vector<TextSpan> JinjaTemplate::render(const Json& context, const Options& options) const {
  if (!context.is_object()) throw Error("chat template: expected the context to be an object");
  Variables variables;
  for (const auto& [name, value] : context.items()) variables.push_back({name, &value});
  return render(variables, options);
}

std::vector<TextSpan> JinjaTemplate::render(const Variables& variables, const Options& options) const {
  return jinja::Evaluator(*impl_->ast, options).render(variables);
}

bool JinjaTemplate::mentions(std::string_view name) const {
  for (const jinja::Expr& e : impl_->ast->exprs) {
    if (e.type == jinja::ExprType::name && !e.store && e.name->text == name) return true;
    if (e.type == jinja::ExprType::constant && e.constant.is_string() && e.constant.string().text == name) return true;
  }
  return false;
}

}  // namespace engine
