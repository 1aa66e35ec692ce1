#include "oracle.h"

#include <stdexcept>

#include "parts.h"

namespace oracle {

const engine::TensorView& Scope::raw(const std::string& name) const {
  const engine::TensorView* tensor = checkpoint_->find(prefix_ + name);
  if (tensor == nullptr) throw std::runtime_error("oracle: no tensor " + prefix_ + name);
  return *tensor;
}

std::vector<double> Scope::values(const std::string& name, size_t n_dims, engine::Shape* shape) const {
  const engine::TensorView& tensor = raw(name);
  if (tensor.shape.size() != n_dims) throw std::runtime_error("oracle: unexpected rank of " + prefix_ + name);
  std::vector<float> floats(static_cast<size_t>(tensor.n_elements()));
  if (!engine::to_float(tensor, floats.data())) throw std::runtime_error("oracle: not floats: " + prefix_ + name);
  *shape = tensor.shape;
  return {floats.begin(), floats.end()};
}

Vector Scope::vector(const std::string& name) const {
  engine::Shape shape;
  const std::vector<double> data = values(name, 1, &shape);
  Vector v = Vector::from_shape({data.size()});
  std::copy(data.begin(), data.end(), v.begin());
  return v;
}

Matrix Scope::matrix(const std::string& name) const {
  engine::Shape shape;
  const std::vector<double> data = values(name, 2, &shape);
  Matrix m = Matrix::from_shape({static_cast<size_t>(shape[0]), static_cast<size_t>(shape[1])});
  std::copy(data.begin(), data.end(), m.begin());
  return m;
}

Cube Scope::cube(const std::string& name) const {
  engine::Shape shape;
  const std::vector<double> data = values(name, 3, &shape);
  Cube c = Cube::from_shape({static_cast<size_t>(shape[0]), static_cast<size_t>(shape[1]), static_cast<size_t>(shape[2])});
  std::copy(data.begin(), data.end(), c.begin());
  return c;
}

namespace {

Forward find_family(const std::string& architecture) {
  for (const auto& families : {dense_families(), expert_families(), gemma_and_other_families()}) {
    for (const Family& family : families) {
      if (architecture == family.architecture) return family.forward;
    }
  }
  throw std::runtime_error("oracle: unknown architecture " + architecture);
}

}  // namespace

Oracle::Oracle(const std::string& directory) : config_(engine::read_json_file(directory + "/config.json")), checkpoint_(directory) {
  std::string architecture = config_.json().at("architectures").at(0).get<std::string>();
  if (const size_t at = architecture.find("ForConditionalGeneration"); at != std::string::npos) {
    // A text model with parts for images beside it.
    const bool mistral3 = architecture == "Mistral3ForConditionalGeneration";
    architecture = (mistral3 ? "Mistral" : architecture.substr(0, at)) + "ForCausalLM";
    engine::Json text = config_.json().at("text_config");
    if (config_.has("tie_word_embeddings")) text["tie_word_embeddings"] = config_.json()["tie_word_embeddings"];
    config_ = Config(text);
    prefix_ = "language_model.";
  }
  forward_ = find_family(architecture);
}

Matrix Oracle::logits(Ids ids) const { return forward_(config_, Scope(checkpoint_, prefix_), ids); }

}  // namespace oracle
