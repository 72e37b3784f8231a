#include "cli/hub.h"

#include <curl/curl.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"

namespace alphecca::hub {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxListing = 16 << 20;  // bytes of a repository listing

struct Response {
  long code = 0;
  std::map<std::string, std::string> headers;  // names in lower case; of the first answer too (redirects keep them)
};

// One GET. Body bytes go to `sink`, which may refuse them by returning false.
struct Request {
  std::string url;
  std::string token;
  int64_t from = 0;
  std::function<bool(const Response&, std::string_view)> sink;
  Response response;
};

size_t OnHeader(char* data, size_t size, size_t count, void* user) {
  auto& request = *static_cast<Request*>(user);
  const std::string line(data, size * count);
  if (absl::StartsWith(line, "HTTP/")) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (words.size() > 1) {
      (void)absl::SimpleAtoi(words[1], &request.response.code);
    }
  } else if (const size_t colon = line.find(':'); colon != std::string::npos) {
    const std::string value(absl::StripAsciiWhitespace(line.substr(colon + 1)));
    request.response.headers[absl::AsciiStrToLower(line.substr(0, colon))] = value;
  }
  return size * count;
}

size_t OnBody(char* data, size_t size, size_t count, void* user) {
  auto& request = *static_cast<Request*>(user);
  return request.sink(request.response, std::string_view(data, size * count)) ? size * count : 0;
}

absl::Status Get(Request& request) {
  const std::unique_ptr<CURL, void (*)(CURL*)> curl(curl_easy_init(), curl_easy_cleanup);
  if (curl == nullptr) {
    return absl::InternalError("curl does not start");
  }
  std::unique_ptr<curl_slist, void (*)(curl_slist*)> headers(nullptr, curl_slist_free_all);
  if (!request.token.empty()) {
    headers.reset(curl_slist_append(nullptr, absl::StrCat("Authorization: Bearer ", request.token).c_str()));
  }
  char error[CURL_ERROR_SIZE] = "";
  curl_easy_setopt(curl.get(), CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl.get(), CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_MAXREDIRS, 5L);
  curl_easy_setopt(curl.get(), CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl.get(), CURLOPT_CONNECTTIMEOUT, 20L);
  curl_easy_setopt(curl.get(), CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_LOW_SPEED_TIME, 30L);
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_RESUME_FROM_LARGE, static_cast<curl_off_t>(request.from));
  curl_easy_setopt(curl.get(), CURLOPT_HEADERFUNCTION, OnHeader);
  curl_easy_setopt(curl.get(), CURLOPT_HEADERDATA, &request);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, OnBody);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &request);
  curl_easy_setopt(curl.get(), CURLOPT_ERRORBUFFER, error);
  const CURLcode code = curl_easy_perform(curl.get());
  const long status = request.response.code;
  if (status == 404) {
    return absl::NotFoundError(absl::StrCat(request.url, ": not there (404)"));
  }
  if (status == 401 || status == 403) {
    return absl::PermissionDeniedError(absl::StrCat(request.url, ": refused (", status, "); HF_TOKEN gives access"));
  }
  if (code != CURLE_OK) {
    return absl::UnavailableError(absl::StrCat(request.url, ": ", error[0] != '\0' ? error : curl_easy_strerror(code)));
  }
  if (status >= 400 && status != 416) {
    return absl::UnavailableError(absl::StrCat(request.url, ": the server answered ", status));
  }
  return absl::OkStatus();
}

// The hub's name for the content of a file, without quotes and weak mark.
std::string ContentHash(const Response& response) {
  for (const char* header : {"x-linked-etag", "etag"}) {
    if (const auto it = response.headers.find(header); it != response.headers.end()) {
      std::string etag = it->second;
      if (absl::StartsWith(etag, "W/")) {
        etag = etag.substr(2);
      }
      etag.erase(std::remove(etag.begin(), etag.end(), '"'), etag.end());
      return absl::AsciiStrToLower(etag);
    }
  }
  return "";
}

bool IsHex(const std::string& text, size_t digits) {
  return text.size() == digits &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isxdigit(c); });
}

// SHA-256 of the file (64 digits wanted) or its git blob id (40). Empty if it cannot be read.
std::string HashFile(const fs::path& path, size_t digits) {
  std::ifstream in(path, std::ios::binary);
  std::error_code error;
  const auto size = fs::file_size(path, error);
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  if (!in || error || context == nullptr) {
    return "";
  }
  EVP_DigestInit_ex(context.get(), digits == 40 ? EVP_sha1() : EVP_sha256(), nullptr);
  if (digits == 40) {
    const std::string head = absl::StrCat("blob ", size, std::string(1, '\0'));
    EVP_DigestUpdate(context.get(), head.data(), head.size());
  }
  std::vector<char> buffer(1 << 20);
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())), in.gcount() > 0) {
    EVP_DigestUpdate(context.get(), buffer.data(), static_cast<size_t>(in.gcount()));
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  EVP_DigestFinal_ex(context.get(), digest, &length);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), length));
}

// A path of a listing, used as a file name: relative, and never out of its folder.
bool SafePath(const std::string& path) {
  if (path.empty() || path.front() == '/' || path.find('\\') != std::string::npos) {
    return false;
  }
  const std::vector<std::string> parts = absl::StrSplit(path, '/');
  return std::none_of(parts.begin(), parts.end(),
                      [](const std::string& p) { return p.empty() || p == "." || p == ".."; });
}

struct Listing {
  std::string commit;
  std::vector<std::string> files;
};

absl::StatusOr<Listing> List(const Reference& reference, const Options& options) {
  std::string body;
  Request request;
  request.url = absl::StrCat(options.endpoint, "/api/models/", reference.repo, "/revision/", reference.revision);
  request.token = options.token;
  request.sink = [&body](const Response&, std::string_view data) {
    body.append(data);
    return body.size() <= kMaxListing;
  };
  RETURN_IF_ERROR(Get(request));
  const auto json = nlohmann::json::parse(body, nullptr, false);
  const auto bad =
      absl::InvalidArgumentError(absl::StrCat(request.url, ": not a repository listing (wants sha and siblings)"));
  if (!json.is_object() || !json.contains("sha") || !json["sha"].is_string() || !json.contains("siblings") ||
      !json["siblings"].is_array()) {
    return bad;
  }
  Listing listing{.commit = json["sha"].get<std::string>(), .files = {}};
  if (!IsHex(listing.commit, 40)) {
    return bad;
  }
  for (const auto& sibling : json["siblings"]) {
    if (!sibling.is_object() || !sibling.contains("rfilename") || !sibling["rfilename"].is_string()) {
      return bad;
    }
    const auto name = sibling["rfilename"].get<std::string>();
    if (!SafePath(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat(request.url, ": file name '", absl::CHexEscape(name), "' leaves its folder"));
    }
    listing.files.push_back(name);
  }
  return listing;
}

// What serving needs of a listing.
absl::StatusOr<std::vector<std::string>> Wanted(const Reference& reference, const std::vector<std::string>& files) {
  std::vector<std::string> wanted;
  std::vector<std::string> ggufs;
  bool safetensors = false;
  for (const std::string& file : files) {
    if (absl::StrContains(file, '/')) {
      continue;
    }
    if (absl::EndsWith(file, ".gguf")) {
      ggufs.push_back(file);
    }
    const bool weights = absl::EndsWith(file, ".safetensors");
    safetensors |= weights;
    if (weights || absl::EndsWith(file, ".json")) {
      wanted.push_back(file);
    }
  }
  if (safetensors) {
    return wanted;
  }
  if (ggufs.size() == 1) {
    return ggufs;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("hf:", reference.repo, " holds no safetensors and ", ggufs.size(),
                   " .gguf files; one is needed (give a downloaded file's path instead)"));
}

// Fetches one file into `path`, going on from path.part if there is one.
absl::Status Fetch(const std::string& url, const Options& options, const fs::path& path, const Progress& progress) {
  const fs::path part = path.string() + ".part";
  std::error_code error;
  for (int attempt = 0;; ++attempt) {
    int64_t have = fs::exists(part, error) ? static_cast<int64_t>(fs::file_size(part, error)) : 0;
    std::ofstream out(part, std::ios::binary | std::ios::app);
    if (!out) {
      return absl::PermissionDeniedError(absl::StrCat(part.string(), ": cannot be written"));
    }
    const std::string name = path.filename().string();
    Request request;
    request.url = url;
    request.token = options.token;
    request.from = have;
    bool first = true;
    int64_t total = 0;
    request.sink = [&](const Response& response, std::string_view data) {
      if (response.code >= 300) {
        return true;  // the body of a redirect or an error
      }
      if (first) {
        first = false;
        if (have > 0 && response.code != 206) {  // the server starts over
          out.close();
          out.open(part, std::ios::binary | std::ios::trunc);
          have = 0;
        }
        int64_t length = 0;
        const auto it = response.headers.find("content-length");
        total = it != response.headers.end() && absl::SimpleAtoi(it->second, &length) ? have + length : 0;
      }
      out.write(data.data(), static_cast<std::streamsize>(data.size()));
      have += static_cast<int64_t>(data.size());
      progress(name, have, total);
      return out.good();
    };
    const absl::Status status = Get(request);
    out.close();
    if (!status.ok()) {
      if (absl::IsUnavailable(status) && attempt < 3) {
        continue;  // a broken transfer goes on from the part
      }
      return status;
    }
    const std::string want = ContentHash(request.response);
    if (want.size() == 40 || want.size() == 64) {
      const std::string got = HashFile(part, want.size());
      if (IsHex(want, want.size()) && got != want) {
        fs::remove(part, error);
        if (attempt == 0) {
          continue;  // a stale part may have been joined to a new file
        }
        return absl::DataLossError(absl::StrCat(url, ": checksum ", got, ", the hub says ", want));
      }
    }
    fs::rename(part, path, error);
    return error ? absl::InternalError(absl::StrCat(path.string(), ": ", error.message())) : absl::OkStatus();
  }
}

}  // namespace

absl::StatusOr<Reference> ParseReference(const std::string& text) {
  Reference reference;
  std::string rest = text.substr(absl::StartsWith(text, "hf:") ? 3 : 0);
  if (const size_t at = rest.find('@'); at != std::string::npos) {
    reference.revision = rest.substr(at + 1);
    rest = rest.substr(0, at);
  }
  reference.repo = rest;
  const auto word = [](const std::string& s) {
    return !s.empty() && s != "." && s != ".." && std::all_of(s.begin(), s.end(), [](unsigned char c) {
      return std::isalnum(c) || c == '-' || c == '_' || c == '.';
    });
  };
  const std::vector<std::string> parts = absl::StrSplit(rest, '/');
  if (parts.size() != 2 || !word(parts[0]) || !word(parts[1]) || !word(reference.revision)) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "': wants hf:org/repo or hf:org/repo@revision"));
  }
  return reference;
}

Options OptionsFromEnvironment() {
  const auto get = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value == nullptr ? "" : value);
  };
  Options options{.endpoint = get("HF_ENDPOINT"), .cache = get("ALPHECCA_CACHE"), .token = get("HF_TOKEN")};
  if (options.endpoint.empty()) {
    options.endpoint = "https://huggingface.co";
  }
  while (absl::EndsWith(options.endpoint, "/")) {
    options.endpoint.pop_back();
  }
  if (options.cache.empty()) {
    options.cache = get("HOME").empty() ? "/var/tmp/alphecca" : absl::StrCat(get("HOME"), "/.cache/alphecca");
  }
  return options;
}

absl::StatusOr<std::string> Download(const Reference& reference, const Options& options, const Progress& progress) {
  ASSIGN_OR_RETURN(const Listing listing, List(reference, options));
  ASSIGN_OR_RETURN(const std::vector<std::string> wanted, Wanted(reference, listing.files));
  const std::string repo_folder = absl::StrCat(reference.repo.substr(0, reference.repo.find('/')), "--",
                                               reference.repo.substr(reference.repo.find('/') + 1));
  const fs::path folder = fs::path(options.cache) / repo_folder / listing.commit;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    return absl::PermissionDeniedError(absl::StrCat(folder.string(), ": ", error.message()));
  }
  for (const std::string& file : wanted) {
    if (!fs::exists(folder / file, error)) {
      RETURN_IF_ERROR(Fetch(absl::StrCat(options.endpoint, "/", reference.repo, "/resolve/", listing.commit, "/", file),
                            options, folder / file, progress));
    }
  }
  return absl::EndsWith(wanted.front(), ".gguf") ? (folder / wanted.front()).string() : folder.string();
}

}  // namespace alphecca::hub
