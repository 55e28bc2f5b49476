// Renders openapi.json. All content is inserted as text, never as HTML.
"use strict";

const METHODS = ["get", "post", "put", "delete"];
const HUGE = 2 ** 31 - 1;
let spec;
let models = {}; // one model of each kind, for the examples

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Text in which parts in backquotes are code.
function formatted(text) {
  return String(text).split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

function resolve(schema) {
  if (!schema.$ref) return schema;
  return schema.$ref.split("/").slice(1).reduce((at, key) => at[key], spec);
}

function nameOf(schema) {
  return schema.$ref.split("/").pop();
}

// The alternatives of a schema without null, nested alternatives included.
function alternatives(schema) {
  if (!schema.anyOf) return [schema];
  return schema.anyOf.flatMap(alternatives).filter((one) => one.type !== "null");
}

function limits(schema) {
  const parts = [];
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum;
  const hasLow = low !== undefined && low > -HUGE;
  const hasHigh = high !== undefined && high < HUGE;
  if (hasLow && hasHigh) parts.push(`${schema.minimum === undefined ? "above " : ""}${low} to ${high}`);
  else if (hasLow) parts.push(`${schema.minimum === undefined ? "above" : "from"} ${low}`);
  else if (hasHigh) parts.push(`up to ${high}`);
  if (schema.minLength) parts.push(schema.minLength === 1 ? "not empty" : `at least ${schema.minLength} characters`);
  if (schema.minItems) parts.push(`at least ${schema.minItems}`);
  if (schema.maxItems) parts.push(`at most ${schema.maxItems}`);
  if (schema.pattern) parts.push(`matches ${schema.pattern}`);
  return parts.length ? ` (${parts.join(", ")})` : "";
}

function typeName(schema) {
  if (schema.$ref) return nameOf(schema);
  if (schema.anyOf) return alternatives(schema).map(typeName).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `list of ${schema.items ? typeName(schema.items) : "anything"}${limits(schema)}`;
  if (schema.type === "object" && schema.additionalProperties?.type) return `object of ${typeName(schema.additionalProperties)}`;
  return `${schema.type || "anything"}${limits(schema)}`;
}

// The object types that a schema refers to.
function innerTypes(schema) {
  if (schema.$ref) return [schema];
  const parts = [...(schema.anyOf || []), ...(schema.items ? [schema.items] : [])];
  if (schema.additionalProperties?.$ref || schema.additionalProperties?.anyOf) parts.push(schema.additionalProperties);
  return parts.flatMap(inners);
}

function fields(schema) {
  const resolved = resolve(schema);
  const required = new Set(resolved.required || []);
  const list = make("ul", { class: "fields" });
  const entries = Object.entries(resolved.properties || {});
  entries.sort((one, other) => required.has(other[0]) - required.has(one[0]));
  for (const [name, property] of entries) list.append(field(name, property, required.has(name)));
  return list;
}

function field(name, schema, required) {
  const defaultValue = schema.default === undefined ? null : make("span", { class: "soft" }, ` Default: ${JSON.stringify(schema.default)}.`);
  const about = make("div", {}, ...formatted(schema.description || ""), defaultValue);
  for (const inner of innerTypes(schema)) about.append(collapsible(nameOf(inner), inner));
  return make("li", {},
    make("div", {}, make("span", { class: "name" }, name), required ? make("span", { class: "required" }, "required") : null,
      make("span", { class: "type" }, typeName(schema))),
    about);
}

// A collapsible type. Its content is rendered when it is opened, because types may be recursive.
function collapsible(title, schema) {
  const node = make("details", { class: "inner" }, make("summary", {}, title));
  node.addEventListener("toggle", () => {
    if (node.childElementCount > 1) return;
    const resolved = resolve(schema);
    node.append(make("p", { class: "soft" }, ...formatted(resolved.description || "")));
    if (resolved.properties) node.append(fields(schema));
  });
  return node;
}

function paragraphs(text) {
  const nodes = [];
  for (const line of String(text || "").split("\n").filter(Boolean)) {
    if (!line.startsWith("- ")) nodes.push(make("p", {}, ...formatted(line)));
    else {
      if (nodes.at(-1)?.tagName !== "UL") nodes.push(make("ul"));
      nodes.at(-1).append(make("li", {}, ...formatted(line.slice(2))));
    }
  }
  return nodes;
}

function root() {
  return new URL(".", document.baseURI).href.replace(/\/$/, "");
}

function exampleOf(operation) {
  const example = operation.requestBody?.content["application/json"].example;
  const model = models[/embed|rerank/.test(operation.operationId) ? "embedding" : "chat"];
  if (!example || !model) return example;
  const named = ["model", "model_name"].filter((name) => name in example).map((name) => [name, model]);
  return { ...example, ...Object.fromEntries(named) };
}

function streams(operation) {
  return Object.values(operation.responses["200"]?.content || {}).some((content) => content["x-event"]);
}

function curl(method, path, operation) {
  const example = exampleOf(operation);
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const head = `curl ${method === "get" || (method === "post" && operation.requestBody) ? "" : `-X ${method.toUpperCase()} `}`;
  const url = root() + path;
  const address = /[{}]/.test(url) ? quoted(url) : url;
  if (!operation.requestBody) return head + address;
  return `${head}${address} \\\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(JSON.stringify(example || {}))}`;
}

function copyButton(text) {
  const button = make("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    // Without HTTPS, browsers allow clipboard access on localhost only.
    const copied = await navigator.clipboard?.writeText(text()).then(() => true, () => false);
    button.textContent = copied ? "Copied" : "Clipboard access was denied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return button;
}

function responses(operation) {
  const nodes = [];
  for (const [status, response] of Object.entries(operation.responses)) {
    const content = Object.entries(response.content || {});
    const isError = content.some(([, one]) => one.schema.allOf) || Number(status) >= 400;
    const line = make("div", {}, make("span", { class: `status ${isError ? "bad" : "good"}` }, status), " ");
    const parts = paragraphs(response.description);
    if (parts.length === 1 && parts[0].tagName === "P") line.append(...parts[0].childNodes);
    nodes.push(line, ...(parts.length === 1 && parts[0].tagName === "P" ? [] : parts));
    if (isError) continue;
    for (const [type, one] of content) {
      const event = one["x-event"];
      if (event) nodes.push(events(type, event.anyOf || [event]));
      else if (one.schema.$ref) nodes.push(collapsible(nameOf(one.schema), one.schema));
      else if (type !== "*/*") nodes.push(make("p", { class: "soft" }, type));
    }
  }
  return nodes;
}

// The types of a stream's events.
function events(type, parts) {
  const title = `Each event of a stream (${type})`;
  if (parts.length === 1) return collapsible(`${title}: ${nameOf(parts[0])}`, parts[0]);
  return make("details", { class: "inner" }, make("summary", {}, `${title}: one of ${parts.length} types`),
    make("div", { class: "among" }, ...parts.map((part) => collapsible(nameOf(part), part))));
}

function tryForm(method, path, operation) {
  const box = make("form", { class: "try" }, make("h3", {}, "Try it"));
  const inputs = {};
  for (const parameter of operation.parameters || []) {
    inputs[parameter.name] = make("input", { name: parameter.name, required: parameter.required });
    box.append(make("label", {}, parameter.name, inputs[parameter.name]));
  }
  const body = operation.requestBody && make("textarea", { spellcheck: "false" });
  if (body) {
    const example = exampleOf(operation) || {};
    const shown = streams(operation) ? { ...example, stream: true } : example;
    body.value = JSON.stringify(shown, null, 2);
    body.rows = body.value.split("\n").length + 1;
    box.append(make("label", {}, "Body", body));
  }
  const send = make("button", { class: "first" }, "Send");
  const stop = make("button", { type: "button", hidden: true }, "Stop");
  const line = make("div", { role: "status" });
  const output = make("p", { class: "output", hidden: true });
  const shown = make("pre", { class: "answer", hidden: true, tabindex: "0", "aria-label": "Response" });
  box.append(send, stop, line, output, shown);
  box.addEventListener("submit", async (event) => {
    event.preventDefault();
    const abort = new AbortController();
    stop.onclick = () => abort.abort();
    send.disabled = true; stop.hidden = false; shown.hidden = output.hidden = true; shown.textContent = output.textContent = "";
    line.textContent = "Waiting for the response…";
    try {
      await sendRequest(address(path, operation, inputs), method, body?.value, abort.signal, { line, output, shown });
    } catch (error) {
      line.textContent = abort.signal.aborted ? "Stopped." : `Request failed: ${error.message}`;
    }
    send.disabled = false; stop.hidden = true;
  });
  return box;
}

function address(path, operation, inputs) {
  const query = new URLSearchParams();
  for (const parameter of operation.parameters || []) {
    const value = inputs[parameter.name].value;
    // Slashes in model names are not escaped.
    if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, encodeURIComponent(value).replaceAll("%2F", "/"));
    else if (value) query.set(parameter.name, value);
  }
  return root() + path + (query.size ? `?${query}` : "");
}

// The entered API key as a header.
function authHeaders() {
  const key = document.getElementById("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function sendRequest(url, method, body, signal, { line, output, shown }) {
  const startTime = performance.now();
  const headers = { ...authHeaders(), ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
  const response = await fetch(url, { method: method.toUpperCase(), headers, body, signal, cache: "no-store" });
  const showStatus = (state) => line.replaceChildren(
    make("span", { class: `status ${response.ok ? "good" : "bad"}` }, `${response.status}`),
    ` ${state} after ${((performance.now() - startTime) / 1000).toFixed(2)} s · request id ${response.headers.get("x-request-id")}`);
  showStatus("started");
  shown.hidden = false;
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    shown.append(part.value);
    rest = appendText(rest + part.value, output);
    shown.scrollTop = shown.scrollHeight;
  }
  showStatus("complete");
  if (!response.headers.get("content-type")?.includes("json")) return;
  shown.textContent = JSON.stringify(JSON.parse(shown.textContent), null, 2);
  shown.scrollTop = 0;
}

// Appends the text of complete stream lines of any API to `output`. Returns the incomplete last line.
function appendText(text, output) {
  const lines = text.split("\n");
  const last = lines.pop();
  for (const line of lines) {
    let event;
    try { event = JSON.parse(line.replace(/^data: /, "")); } catch { continue; }
    const choice = event.choices?.[0] || {};
    const pieces = [choice.delta?.content, choice.text, event.delta?.text, event.delta, event.message?.content, event.response];
    const piece = pieces.find((one) => typeof one === "string");
    if (!piece) continue;
    output.hidden = false;
    output.append(piece);
  }
  return last;
}

function route(method, path, operation) {
  const node = make("details", { class: "route", id: operation.operationId },
    make("summary", {}, make("span", { class: `method ${method}` }, method.toUpperCase()),
      make("span", { class: "path" }, path), make("span", { class: "words" }, ...formatted(operation.summary))));
  node.addEventListener("toggle", () => {
    if (node.childElementCount > 1) return;
    const text = curl(method, path, operation);
    const inside = make("div", {}, ...paragraphs(operation.description),
      make("h3", {}, "curl"), make("pre", {}, text), copyButton(() => text), tryForm(method, path, operation));
    if (operation.parameters) {
      const list = make("ul", { class: "fields" });
      for (const one of operation.parameters) list.append(field(one.name, { ...one.schema, description: one.description }, one.required));
      inside.append(make("h3", {}, "Parameters"), list);
    }
    const body = operation.requestBody?.content["application/json"].schema;
    if (body) inside.append(make("h3", {}, "Request body"), fields(body));
    inside.append(make("h3", {}, "Responses"), ...responses(operation));
    node.append(inside);
  });
  return node;
}

function errors() {
  const list = make("ul", { class: "fields" });
  for (const one of spec["x-errors"] || []) {
    list.append(make("li", {},
      make("div", {}, make("span", { class: "name" }, one.code), make("span", { class: "type" }, `status ${one.status}`)),
      make("div", {}, ...formatted(`${one.meaning} ${one.action}`))));
  }
  return make("section", {}, make("h2", { id: "errors" }, "Errors"),
    make("p", { class: "soft" }, "Error codes in OpenAI's error format. Routes of other APIs use the error format of their API."),
    list);
}

function show() {
  const main = document.getElementById("main");
  const contents = document.getElementById("contents");
  document.getElementById("version").textContent = spec.info.version;
  document.getElementById("about").replaceChildren(...formatted(spec.info.description.replaceAll("\n", " ")));
  document.getElementById("base").textContent = `${root()}/v1`;
  document.getElementById("copy-base").replaceWith(copyButton(() => `${root()}/v1`));
  const all = Object.entries(spec.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => [method, path, item[method]]));
  for (const tag of spec.tags) {
    const section = make("section", {}, make("h2", {}, tag.name), make("p", { class: "soft" }, ...formatted(tag.description)));
    const list = make("ul");
    for (const [method, path, operation] of all.filter(([, , one]) => one.tags.includes(tag.name))) {
      section.append(route(method, path, operation));
      list.append(make("li", {}, make("a", { href: `#${operation.operationId}` },
        make("span", { class: `method ${method}` }, method.toUpperCase()), path)));
    }
    main.append(section);
    contents.append(make("strong", {}, tag.name), list);
  }
  main.append(errors());
  contents.append(make("a", { href: "#errors" }, "Errors"));
  document.getElementById("filter").addEventListener("input", (event) => filter(event.target.value.toLowerCase()));
  addEventListener("hashchange", openTarget);
  openTarget();
}

function filter(text) {
  const hit = (node) => node.textContent.toLowerCase().includes(text);
  for (const node of document.querySelectorAll(".route")) node.hidden = !hit(node.firstElementChild);
  for (const section of document.querySelectorAll("main section")) {
    const routes = [...section.querySelectorAll(".route")];
    section.hidden = routes.length > 0 && routes.every((node) => node.hidden);
  }
  for (const item of document.querySelectorAll("#contents li")) item.hidden = !hit(item);
}

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.tagName === "DETAILS") target.open = true;
  target.scrollIntoView();
}

// The first loadable model of each kind. The examples also work without one.
async function findModels() {
  const response = await fetch("v1/models");
  const usable = (await response.json()).data.filter((one) => one.loadable);
  return Object.fromEntries(usable.reverse().map((one) => [one.kind, one.id]));
}

async function start() {
  const state = document.getElementById("state");
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(`status ${response.status}`);
    spec = await response.json();
    models = await findModels().catch(() => ({}));
    state.remove();
    show();
  } catch (error) {
    state.textContent = `Could not load openapi.json: ${error.message}. Check that the service is running, then reload the page.`;
  }
}

start();
