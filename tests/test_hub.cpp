#include <doctest/doctest.h>

#include <cstdlib>

#include "base/error.h"
#include "hub/hash.h"
#include "hub/http_client.h"
#include "hub/hub.h"
#include "hub/url.h"

using namespace engine;
using namespace engine::hub;

namespace {

template <class Hash>
std::string hash_of(const std::string& text, size_t piece) {
  Hash hash;
  for (size_t i = 0; i < text.size(); i += piece) hash.update(std::string_view(text).substr(i, piece));
  return hash.hex();
}

RemoteFile file(const char* path, uint64_t size = 1) { return {path, size, std::string(40, 'a')}; }

std::vector<std::string> names_of(const std::vector<RemoteFile>& files) {
  std::vector<std::string> names;
  for (const RemoteFile& f : files) names.push_back(f.path);
  return names;
}

}  // namespace

// The examples of FIPS 180-4 and NIST's long one.
TEST_CASE("hashes") {
  CHECK(Sha256().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(Sha1().hex() == "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  const std::string two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", million(1000000, 'a');
  for (const size_t piece : {1, 3, 63, 64, 65, 1000}) {
    CAPTURE(piece);
    CHECK(hash_of<Sha256>("abc", piece) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(hash_of<Sha256>(two, piece) == "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    CHECK(hash_of<Sha256>(million, piece) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    CHECK(hash_of<Sha1>("abc", piece) == "a9993e364706816aba3e25717850c26c9cd0d89d");
    CHECK(hash_of<Sha1>(two, piece) == "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
    CHECK(hash_of<Sha1>(million, piece) == "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
  }
}

TEST_CASE("base64") {
  const std::pair<const char*, const char*> cases[] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"\xff\xfe\xfd", "//79"}};
  for (const auto& [bytes, text] : cases) CHECK(base64(bytes) == text);
}

TEST_CASE("addresses are taken apart") {
  const Url url = parse_url("HTTPS://Example.ORG/a/b?x=%2F+y#part", "x");
  CHECK(url.tls);
  CHECK(url.host == "example.org");
  CHECK(url.port == 443);
  CHECK(url.target == "/a/b?x=%2F+y");
  CHECK(url.origin() == "https://example.org");
  CHECK(parse_url("http://h:443?q", "x").origin() == "http://h:443");
  CHECK(parse_url("http://h:443?q", "x").target == "/?q");
  CHECK(parse_url("http://[::1]:8000/", "x").host == "::1");
  CHECK(parse_url("http://[::1]:8000/", "x").host_header() == "[::1]:8000");
  CHECK(parse_url("http://a%40b:c%20d@h", "x", true).user == "a@b:c d");
  for (const char* bad : {"", "example.org", "ftp://x", "http://", "http:///x", "http://h:0", "http://h:65536", "http://h:x", "http://h:1x", "http://[::1", "http://[g]/",
                          "http://a b/", "http://h/\r\nX: y", "http://h/\x7f", "http://u@h/", "://h", "http://h\\@evil/"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(parse_url(bad, "x"), Error);
  }
  CHECK_THROWS_AS(parse_url("http://h/" + std::string(20000, 'x'), "x"), Error);
}

TEST_CASE("addresses are followed") {
  const Url base = parse_url("https://h:8443/a/b?c/d", "x");
  const std::pair<const char*, const char*> cases[] = {{"http://o/x", "http://o/x"},        {"//o/x", "https://o/x"},      {"/x?y", "https://h:8443/x?y"},
                                                       {"x", "https://h:8443/a/x"},         {"?z", "https://h:8443/a/b?z"}};
  for (const auto& [reference, expected] : cases) {
    const Url url = resolve_url(base, reference, "x");
    CHECK(url.origin() + url.target == expected);
  }
  CHECK(percent_encode("a b/ü?%", true) == "a%20b/%C3%BC%3F%25");
  CHECK(percent_encode("refs/pr/1", false) == "refs%2Fpr%2F1");
}

TEST_CASE("which proxy") {
  Proxies proxies;
  proxies.https = parse_url("http://proxy:1", "x");
  proxies.none = {"localhost", ".internal", "*.corp", "exact:8443"};
  const std::pair<const char*, bool> cases[] = {{"https://hub", true},        {"http://hub", false},         {"https://localhost:5", false}, {"https://a.internal", false},
                                                {"https://internal", false},  {"https://xinternal", true},   {"https://a.corp", false},      {"https://exact:8443", false},
                                                {"https://exact", true}};
  for (const auto& [address, used] : cases) {
    CAPTURE(address);
    CHECK((proxies.for_url(parse_url(address, "x")) != nullptr) == used);
  }
}

TEST_CASE("files that engine reads") {
  const std::vector<RemoteFile> others = {file("README.md"), file("config.json"), file("tokenizer.json"), file("tokenizer_config.json"), file("vocab.json"),
                                          file("chat_template.jinja"), file("additional_chat_templates/tools.jinja"), file("additional_chat_templates/a/b.jinja"),
                                          file("onnx/config.json"), file("onnx/model.safetensors"), file("pytorch_model.bin"), file("model.gguf"),
                                          file("model.fp16.safetensors"), file("consolidated.safetensors"), file("generation_config.json")};
  const std::vector<std::string> small = {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                                          "additional_chat_templates/tools.jinja", "generation_config.json"};
  std::vector<RemoteFile> files = others;
  CHECK_THROWS_AS(wanted_files("x", files), Error);
  files.push_back(file("model.safetensors"));
  std::vector<std::string> expected = small;
  expected.push_back("model.safetensors");
  CHECK(names_of(wanted_files("x", files)) == expected);
  files.push_back(file("model.safetensors.index.json"));  // not needed beside the one file
  CHECK(names_of(wanted_files("x", files)) == expected);
  CHECK(names_of(wanted_files("x", {file("adapter_config.json"), file("adapter_model.safetensors"), file("adapter_model.bin")})) ==
        std::vector<std::string>{"adapter_config.json", "adapter_model.safetensors"});
  CHECK_THROWS_AS(wanted_files("x", {file("model.safetensors"), file("tokenizer.json", uint64_t{1} << 40)}), Error);
}

TEST_CASE("a page of the listing") {
  std::vector<RemoteFile> files;
  read_tree_page(R"([{"type": "directory", "path": "a", "oid": "x"},
    {"type": "file", "path": "config.json", "size": 7, "oid": "0123456789abcdef0123456789abcdef01234567"},
    {"type": "file", "path": "m.safetensors", "size": 5, "oid": "0123456789abcdef0123456789abcdef01234567", "xetHash": "z",
     "lfs": {"size": 9000000000, "pointerSize": 134, "oid": "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}}])", "x", &files);
  REQUIRE(files.size() == 2);
  CHECK(files[0].hash.size() == 40);
  CHECK(files[0].size == 7);
  CHECK(files[1].hash.size() == 64);
  CHECK(files[1].size == 9000000000);
  for (const char* bad : {"", "{}", "[", R"([{"type": "file"}])", R"([{"type": "file", "path": "../x", "size": 1, "oid": "0123456789abcdef0123456789abcdef01234567"}])",
                          R"([{"type": "file", "path": "x", "size": 1, "oid": "0123456789ABCDEF0123456789abcdef01234567"}])",
                          R"([{"type": "file", "path": "x", "size": 1.5, "oid": "0123456789abcdef0123456789abcdef01234567"}])"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(read_tree_page(bad, "x", &files), Error);
  }
}

TEST_CASE("tokens") {
  ::setenv("HF_TOKEN", " hf_abc\n", 1);
  CHECK(default_token() == "hf_abc");
  ::setenv("HF_TOKEN", "hf_a\r\nX: y", 1);
  CHECK_THROWS_AS(default_token(), Error);
  ::unsetenv("HF_TOKEN");
}
