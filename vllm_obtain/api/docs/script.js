// Shows openapi.json. Everything goes in as text, never as HTML.
"use strict";

const METHODS = ["get", "post", "put", "delete"];
const HUGE = 2 ** 31 - 1;
let described;
let models = {}; // one of each kind that is here, for the examples

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Text in which `words` are code.
function words(text) {
  return String(text).split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

function resolve(schema) {
  if (!schema.$ref) return schema;
  return schema.$ref.split("/").slice(1).reduce((at, key) => at[key], described);
}

function nameOf(schema) {
  return schema.$ref.split("/").pop();
}

// The alternatives of a schema without null, those within alternatives too.
function alternatives(schema) {
  if (!schema.anyOf) return [schema];
  return schema.anyOf.flatMap(alternatives).filter((one) => one.type !== "null");
}

function limits(schema) {
  const found = [];
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum;
  const hasLow = low !== undefined && low > -HUGE;
  const hasHigh = high !== undefined && high < HUGE;
  if (hasLow && hasHigh) found.push(`${schema.minimum === undefined ? "above " : ""}${low} to ${high}`);
  else if (hasLow) found.push(`${schema.minimum === undefined ? "above" : "from"} ${low}`);
  else if (hasHigh) found.push(`up to ${high}`);
  if (schema.minLength) found.push(schema.minLength === 1 ? "not empty" : `at least ${schema.minLength} characters`);
  if (schema.minItems) found.push(`at least ${schema.minItems}`);
  if (schema.maxItems) found.push(`at most ${schema.maxItems}`);
  if (schema.pattern) found.push(`matches ${schema.pattern}`);
  return found.length ? ` (${found.join(", ")})` : "";
}

function kind(schema) {
  if (schema.$ref) return nameOf(schema);
  if (schema.anyOf) return alternatives(schema).map(kind).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `list of ${schema.items ? kind(schema.items) : "anything"}${limits(schema)}`;
  if (schema.type === "object" && schema.additionalProperties?.type) return `object of ${kind(schema.additionalProperties)}`;
  return `${schema.type || "anything"}${limits(schema)}`;
}

// The types with fields of their own that a schema is made of.
function inners(schema) {
  if (schema.$ref) return [schema];
  const parts = [...(schema.anyOf || []), ...(schema.items ? [schema.items] : [])];
  if (schema.additionalProperties?.$ref || schema.additionalProperties?.anyOf) parts.push(schema.additionalProperties);
  return parts.flatMap(inners);
}

function fields(schema) {
  const found = resolve(schema);
  const needed = new Set(found.required || []);
  const list = make("ul", { class: "fields" });
  const entries = Object.entries(found.properties || {});
  entries.sort((one, other) => needed.has(other[0]) - needed.has(one[0]));
  for (const [name, property] of entries) list.append(field(name, property, needed.has(name)));
  return list;
}

function field(name, schema, needed) {
  const usual = schema.default === undefined ? null : make("span", { class: "soft" }, ` Left out: ${JSON.stringify(schema.default)}.`);
  const about = make("div", {}, ...words(schema.description || ""), usual);
  for (const inner of inners(schema)) about.append(folded(nameOf(inner), inner));
  return make("li", {},
    make("div", {}, make("span", { class: "name" }, name), needed ? make("span", { class: "needed" }, "required") : null,
      make("span", { class: "type" }, kind(schema))),
    about);
}

// A type that unfolds; made when it is opened, since types may hold themselves.
function folded(title, schema) {
  const node = make("details", { class: "inner" }, make("summary", {}, title));
  node.addEventListener("toggle", () => {
    if (node.childElementCount > 1) return;
    const found = resolve(schema);
    node.append(make("p", { class: "soft" }, ...words(found.description || "")));
    if (found.properties) node.append(fields(schema));
  });
  return node;
}

function paragraphs(text) {
  const nodes = [];
  for (const line of String(text || "").split("\n").filter(Boolean)) {
    if (!line.startsWith("- ")) nodes.push(make("p", {}, ...words(line)));
    else {
      if (nodes.at(-1)?.tagName !== "UL") nodes.push(make("ul"));
      nodes.at(-1).append(make("li", {}, ...words(line.slice(2))));
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

function copier(text) {
  const button = make("button", { type: "button" }, "Copy");
  button.addEventListener("click", async () => {
    // Without https only localhost may write to the clipboard.
    const copied = await navigator.clipboard?.writeText(text()).then(() => true, () => false);
    button.textContent = copied ? "Copied" : "Not allowed: select and copy it";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return button;
}

function answers(operation) {
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
      else if (one.schema.$ref) nodes.push(folded(nameOf(one.schema), one.schema));
      else if (type !== "*/*") nodes.push(make("p", { class: "soft" }, type));
    }
  }
  return nodes;
}

// What each event of a stream is: one type, or one of several.
function events(type, parts) {
  const title = `Each event of a stream (${type})`;
  if (parts.length === 1) return folded(`${title}: ${nameOf(parts[0])}`, parts[0]);
  return make("details", { class: "inner" }, make("summary", {}, `${title}: one of ${parts.length} types`),
    make("div", { class: "among" }, ...parts.map((part) => folded(nameOf(part), part))));
}

function trial(method, path, operation) {
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
  const said = make("p", { class: "said", hidden: true });
  const shown = make("pre", { class: "answer", hidden: true, tabindex: "0", "aria-label": "Answer" });
  box.append(send, stop, line, said, shown);
  box.addEventListener("submit", async (event) => {
    event.preventDefault();
    const abort = new AbortController();
    stop.onclick = () => abort.abort();
    send.disabled = true; stop.hidden = false; shown.hidden = said.hidden = true; shown.textContent = said.textContent = "";
    line.textContent = "Waiting for the answer…";
    try {
      await ask(address(path, operation, inputs), method, body?.value, abort.signal, { line, said, shown });
    } catch (error) {
      line.textContent = abort.signal.aborted ? "Stopped." : `No answer: ${error.message}`;
    }
    send.disabled = false; stop.hidden = true;
  });
  return box;
}

function address(path, operation, inputs) {
  const query = new URLSearchParams();
  for (const parameter of operation.parameters || []) {
    const value = inputs[parameter.name].value;
    // A model's name may hold slashes, and they stay.
    if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, encodeURIComponent(value).replaceAll("%2F", "/"));
    else if (value) query.set(parameter.name, value);
  }
  return root() + path + (query.size ? `?${query}` : "");
}

// The key that was typed in, as a header.
function keyed() {
  const key = document.getElementById("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function ask(url, method, body, signal, { line, said, shown }) {
  const began = performance.now();
  const headers = { ...keyed(), ...(body === undefined ? {} : { "Content-Type": "application/json" }) };
  const response = await fetch(url, { method: method.toUpperCase(), headers, body, signal, cache: "no-store" });
  const tell = (more) => line.replaceChildren(
    make("span", { class: `status ${response.ok ? "good" : "bad"}` }, `${response.status}`),
    ` ${more} after ${((performance.now() - began) / 1000).toFixed(2)} s · request id ${response.headers.get("x-request-id")}`);
  tell("begun");
  shown.hidden = false;
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    shown.append(part.value);
    rest = tellPieces(rest + part.value, said);
    shown.scrollTop = shown.scrollHeight;
  }
  tell("complete");
  if (!response.headers.get("content-type")?.includes("json")) return;
  shown.textContent = JSON.stringify(JSON.parse(shown.textContent), null, 2);
  shown.scrollTop = 0;
}

// Shows the text that whole lines of a stream hold, whatever API it is of; returns the last piece
// of a line.
function tellPieces(text, said) {
  const lines = text.split("\n");
  const last = lines.pop();
  for (const line of lines) {
    let event;
    try { event = JSON.parse(line.replace(/^data: /, "")); } catch { continue; }
    const choice = event.choices?.[0] || {};
    const pieces = [choice.delta?.content, choice.text, event.delta?.text, event.delta, event.message?.content, event.response];
    const piece = pieces.find((one) => typeof one === "string");
    if (!piece) continue;
    said.hidden = false;
    said.append(piece);
  }
  return last;
}

function route(method, path, operation) {
  const node = make("details", { class: "route", id: operation.operationId },
    make("summary", {}, make("span", { class: `method ${method}` }, method.toUpperCase()),
      make("span", { class: "path" }, path), make("span", { class: "words" }, ...words(operation.summary))));
  node.addEventListener("toggle", () => {
    if (node.childElementCount > 1) return;
    const text = curl(method, path, operation);
    const inside = make("div", {}, ...paragraphs(operation.description),
      make("h3", {}, "From a shell"), make("pre", {}, text), copier(() => text), trial(method, path, operation));
    if (operation.parameters) {
      const list = make("ul", { class: "fields" });
      for (const one of operation.parameters) list.append(field(one.name, { ...one.schema, description: one.description }, one.required));
      inside.append(make("h3", {}, "In the address"), list);
    }
    const body = operation.requestBody?.content["application/json"].schema;
    if (body) inside.append(make("h3", {}, "Fields of the body"), fields(body));
    inside.append(make("h3", {}, "Answers"), ...answers(operation));
    node.append(inside);
  });
  return node;
}

function errors() {
  const list = make("ul", { class: "fields" });
  for (const one of described["x-errors"] || []) {
    list.append(make("li", {},
      make("div", {}, make("span", { class: "name" }, one.code), make("span", { class: "type" }, `status ${one.status}`)),
      make("div", {}, ...words(`${one.meaning} ${one.action}`))));
  }
  return make("section", {}, make("h2", { id: "errors" }, "Errors"),
    make("p", { class: "soft" }, "What each code means and what to do. They come in OpenAI's error object; the routes of other APIs use those APIs' own."),
    list);
}

function show() {
  const main = document.getElementById("main");
  const contents = document.getElementById("contents");
  document.getElementById("version").textContent = described.info.version;
  document.getElementById("about").replaceChildren(...words(described.info.description.replaceAll("\n", " ")));
  document.getElementById("base").textContent = `${root()}/v1`;
  document.getElementById("copy-base").replaceWith(copier(() => `${root()}/v1`));
  const all = Object.entries(described.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => [method, path, item[method]]));
  for (const tag of described.tags) {
    const section = make("section", {}, make("h2", {}, tag.name), make("p", { class: "soft" }, ...words(tag.description)));
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

// The first model of each kind that can be loaded; the examples work without one too.
async function findModels() {
  const response = await fetch("v1/models");
  const usable = (await response.json()).data.filter((one) => one.loadable);
  return Object.fromEntries(usable.reverse().map((one) => [one.kind, one.id]));
}

async function begin() {
  const state = document.getElementById("state");
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(`status ${response.status}`);
    described = await response.json();
    models = await findModels().catch(() => ({}));
    state.remove();
    show();
  } catch (error) {
    state.textContent = `The description could not be read: ${error.message}. Is the service running? Load the page again.`;
  }
}

begin();
