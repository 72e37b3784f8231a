#include "text/gemma4_values.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "text/concat.h"
#include "text/python_format.h"
#include "text/special_tokens.h"
#include "text/utf8.h"

namespace alphecca::text {
namespace {

// An object's members by key in lower case; equal ones keep their order.
std::vector<const JsonMember*> ByKey(const JsonValue& object) {
  std::vector<std::pair<std::string, const JsonMember*>> keyed;
  keyed.reserve(object.members.size());
  for (const JsonMember& member : object.members) {
    keyed.emplace_back(Lower(member.key), &member);
  }
  std::stable_sort(keyed.begin(), keyed.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<const JsonMember*> sorted;
  sorted.reserve(keyed.size());
  for (const auto& [key, member] : keyed) {
    sorted.push_back(member);
  }
  return sorted;
}

// What the template prints for a "type".
std::string TypeName(const JsonValue& type) {
  return Upper(PythonStr(type));
}

bool IsSchemaWord(std::string_view key) {
  return key == "description" || key == "type" || key == "properties" || key == "required" || key == "nullable";
}

// Writes a comma before all but the first of a list's entries.
class Commas {
 public:
  explicit Commas(PieceBuilder& out) : out_(out) {}
  void Next() {
    if (!std::exchange(first_, false)) {
      out_.Text(",");
    }
  }

 private:
  PieceBuilder& out_;
  bool first_ = true;
};

void AppendSchemaFields(const JsonValue& properties, bool drop_schema_words, PieceBuilder& out);

// `items:{...}` of an array's schema.
void AppendItems(const JsonValue& schema, PieceBuilder& out) {
  out.Text("items:{");
  Commas commas(out);
  for (const JsonMember* member : ByKey(schema)) {
    const JsonValue& value = member->value;
    if (value.IsNull()) {
      continue;
    }
    commas.Next();
    out.Text(member->key);
    out.Text(":");
    if (member->key == "properties") {
      out.Text("{");
      if (value.IsObject()) {
        AppendSchemaFields(value, false, out);
      }
      out.Text("}");
    } else if (member->key == "type" && value.IsArray()) {
      JsonValue types = value;
      for (JsonValue& type : types.items) {
        type = JsonValue::String(TypeName(type));
      }
      AppendValue(types, true, out);
    } else if (member->key == "type") {
      AppendQuoted(TypeName(value), out);
    } else {
      AppendValue(value, true, out);
    }
  }
  out.Text("}");
}

// The inside of `name:{...}`.
void AppendSchema(const JsonValue& schema, PieceBuilder& out) {
  Commas commas(out);
  if (const JsonValue* description = schema.Find("description"); Truthy(description)) {
    commas.Next();
    out.Text("description:");
    AppendQuoted(PythonStr(*description), out);
  }
  const JsonValue* type = schema.Find("type");
  const std::string kind = type != nullptr ? TypeName(*type) : "";
  if (const JsonValue* values = schema.Find("enum"); kind == "STRING" && Truthy(values)) {
    commas.Next();
    out.Text("enum:");
    AppendValue(*values, true, out);
  }
  if (const JsonValue* items = schema.Find("items"); kind == "ARRAY" && Truthy(items) && items->IsObject()) {
    commas.Next();
    AppendItems(*items, out);
  }
  if (Truthy(schema.Find("nullable"))) {
    commas.Next();
    out.Text("nullable:true");
  }
  if (kind == "OBJECT") {
    commas.Next();
    out.Text("properties:{");
    const JsonValue* properties = schema.Find("properties");
    const bool own = properties != nullptr && properties->IsObject();
    AppendSchemaFields(own ? *properties : schema, !own, out);
    out.Text("}");
    if (const JsonValue* required = schema.Find("required"); Truthy(required)) {
      commas.Next();
      out.Text("required:");
      AppendValue(*required, true, out);
    }
  }
  commas.Next();
  out.Text("type:");
  AppendQuoted(kind, out);
}

void AppendSchemaFields(const JsonValue& properties, bool drop_schema_words, PieceBuilder& out) {
  Commas commas(out);
  for (const JsonMember* member : ByKey(properties)) {
    if (drop_schema_words && IsSchemaWord(member->key)) {
      continue;
    }
    commas.Next();
    out.Text(member->key);
    out.Text(":{");
    AppendSchema(member->value, out);
    out.Text("}");
  }
}

void AppendParameters(const JsonValue& parameters, PieceBuilder& out) {
  out.Text(",parameters:{");
  if (const JsonValue* properties = parameters.Find("properties"); Truthy(properties)) {
    out.Text("properties:{");
    AppendSchemaFields(*properties, false, out);
    out.Text("},");
  }
  if (const JsonValue* required = parameters.Find("required"); Truthy(required)) {
    out.Text("required:");
    AppendValue(*required, true, out);
    out.Text(",");
  }
  // The template would lose the closing brace of a schema without a type.
  const JsonValue* type = parameters.Find("type");
  out.Text("type:");
  AppendQuoted(Truthy(type) ? TypeName(*type) : "OBJECT", out);
  out.Text("}");
}

void AppendResponseSchema(const JsonValue& response, PieceBuilder& out) {
  out.Text(",response:{");
  if (const JsonValue* description = response.Find("description"); Truthy(description)) {
    out.Text("description:");
    AppendQuoted(PythonStr(*description), out);
    out.Text(",");
  }
  if (const JsonValue* type = response.Find("type"); type != nullptr && TypeName(*type) == "OBJECT") {
    out.Text("type:");
    AppendQuoted("OBJECT", out);
    out.Text("}");
  }
}

}  // namespace

void AppendQuoted(std::string_view text, PieceBuilder& out) {
  out.Control(kQuote);
  out.Text(text);
  out.Control(kQuote);
}

void AppendValue(const JsonValue& value, bool quote_keys, PieceBuilder& out) {
  switch (value.kind) {
    case JsonValue::Kind::kNull:
      out.Text("null");
      return;
    case JsonValue::Kind::kBool:
      out.Text(value.boolean ? "true" : "false");
      return;
    case JsonValue::Kind::kNumber:
      out.Text(PythonNumber(value.text));
      return;
    case JsonValue::Kind::kString:
      AppendQuoted(value.text, out);
      return;
    case JsonValue::Kind::kArray: {
      out.Text("[");
      Commas commas(out);
      for (const JsonValue& item : value.items) {
        commas.Next();
        AppendValue(item, quote_keys, out);
      }
      out.Text("]");
      return;
    }
    case JsonValue::Kind::kObject: {
      out.Text("{");
      Commas commas(out);
      for (const JsonMember* member : ByKey(value)) {
        commas.Next();
        if (quote_keys) {
          AppendQuoted(member->key, out);
        } else {
          out.Text(member->key);
        }
        out.Text(":");
        AppendValue(member->value, quote_keys, out);
      }
      out.Text("}");
      return;
    }
  }
}

void AppendFields(const JsonValue& object, PieceBuilder& out) {
  Commas commas(out);
  for (const JsonMember* member : ByKey(object)) {
    commas.Next();
    out.Text(member->key);
    out.Text(":");
    AppendValue(member->value, false, out);
  }
}

void AppendDeclaration(const JsonValue& function, PieceBuilder& out) {
  const JsonValue* name = function.Find("name");
  const JsonValue* description = function.Find("description");
  out.Control(kTool);
  out.Text(Concat("declaration:", name != nullptr ? PythonStr(*name) : "", "{description:"));
  AppendQuoted(Truthy(description) ? PythonStr(*description) : "", out);
  if (const JsonValue* parameters = function.Find("parameters"); Truthy(parameters)) {
    AppendParameters(*parameters, out);
  }
  if (const JsonValue* response = function.Find("response"); response != nullptr && !response->IsNull()) {
    AppendResponseSchema(*response, out);
  }
  out.Text("}");
  out.Control(kToolEnd);
}

}  // namespace alphecca::text
