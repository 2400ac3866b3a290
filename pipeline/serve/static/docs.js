"use strict";

function make(name, text, ...children) {
  const element = document.createElement(name);
  element.textContent = text;
  element.append(...children);
  return element;
}

// A schema with its references put in, so that one look shows the whole body.
function whole(schema, document_, depth = 0) {
  if (Array.isArray(schema)) return schema.map((one) => whole(one, document_, depth));
  if (schema === null || typeof schema !== "object") return schema;
  if (schema.$ref && depth < 8) {
    const target = schema.$ref.slice(2).split("/").reduce((node, key) => node?.[key], document_);
    return whole(target, document_, depth + 1);
  }
  return Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, whole(value, document_, depth + 1)]));
}

function schemaBlock(title, content, document_) {
  const schema = content?.["application/json"]?.schema;
  if (!schema || Object.keys(schema).length === 0) return [];
  return [make("h3", title), make("pre", JSON.stringify(whole(schema, document_), null, 2))];
}

function operation(method, path, details, document_) {
  const element = make("details", "");
  element.append(make("summary", "", make("b", method.toUpperCase()), make("code", path)));
  element.append(make("p", details.description || details.summary || ""));
  if (details.parameters?.length) {
    const list = make("ul", "");
    for (const one of details.parameters) {
      const type = one.schema.type || one.schema.anyOf?.map((schema) => schema.type || "enum").join(" or ") || "enum";
      list.append(make("li", "", make("code", one.name), ` in ${one.in}, ${type}${one.required ? ", required" : ""}`));
    }
    element.append(make("h3", "Parameters"), list);
  }
  element.append(...schemaBlock("Body", details.requestBody?.content, document_));
  for (const [status, response] of Object.entries(details.responses)) {
    if (status === "422") continue; // FastAPI lists it everywhere; our errors are 400
    element.append(...schemaBlock(`${status}: ${response.description}`, response.content, document_));
  }
  return element;
}

async function main() {
  const place = document.getElementById("operations");
  try {
    const document_ = await (await fetch("/openapi.json")).json();
    place.replaceChildren(...Object.entries(document_.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, details]) => operation(method, path, details, document_))));
  } catch (error) {
    place.replaceChildren(make("p", `The OpenAPI document cannot be read: ${error.message}`));
  }
}

main();
