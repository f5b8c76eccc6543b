// The data of a page: chunks from the folder beside it, search and orders. All scripts of a page are put into one function.
const about = JSON.parse(document.getElementById("about").textContent);
const $ = (id) => document.getElementById(id);

// An element with properties and children, texts among them; texts from files only ever get into the page as text.
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// Chunks. Modules and fetch fail on file://, so each is a classic script that calls add.
const chunks = new Map(); // "kind.number" -> its value
const coming = new Map(); // "kind.number" -> {promise, resolve}

function add(kind, number, value) {
  const name = `${kind}.${number}`;
  if (chunks.has(name)) return;
  chunks.set(name, value);
  coming.get(name)?.resolve(value);
  coming.delete(name);
}

function load(kind, number) {
  const name = `${kind}.${number}`;
  if (chunks.has(name)) return Promise.resolve(chunks.get(name));
  if (!coming.has(name)) {
    const waiting = {};
    waiting.promise = new Promise((resolve, reject) => Object.assign(waiting, { resolve, reject }));
    coming.set(name, waiting);
    const script = element("script", { src: `${about.data.split("/").map(encodeURIComponent).join("/")}/${name}.js`, charset: "utf-8" });
    script.onload = () => script.remove();
    script.onerror = () => {
      coming.delete(name);
      waiting.reject(new Error(`${name}.js is missing`));
      $("summary").textContent = `The folder ${about.data} belongs beside this page, and its file ${name}.js is missing.`;
    };
    document.head.append(script);
  }
  return coming.get(name).promise;
}

// The value if it is there; else it is loaded when the list has stood still for a moment, and the list drawn again.
let wanted = new Set();
let timer = 0;
function peek(kind, number) {
  const name = `${kind}.${number}`;
  if (!chunks.has(name)) {
    wanted.add(name);
    timer ||= setTimeout(() => {
      const names = [...wanted];
      [wanted, timer] = [new Set(), 0];
      Promise.all(names.map((one) => load(...one.split(".")))).then(() => list?.draw(), () => {});
    }, 30);
  }
  return chunks.get(name);
}

function bytes(text) {
  const raw = atob(text);
  const found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
  return found.buffer;
}
const floats = (text) => new Float32Array(bytes(text));
const integers = (text) => new Int32Array(bytes(text));

// A chunk with its texts decoded once by `decode`.
const decoded = new Map();
function peekDecoded(kind, number, decode) {
  const name = `${kind}.${number}`;
  if (!decoded.has(name)) {
    const value = peek(kind, number);
    if (value === undefined) return undefined;
    decoded.set(name, decode(value));
  }
  return decoded.get(name);
}

// Where the lines of a text chunk start.
const lineStarts = new Map();
function lineOf(index) {
  const size = about.sizes.text;
  const number = Math.floor(index / size);
  const text = peek("text", number);
  if (text === undefined) return undefined;
  if (!lineStarts.has(number)) {
    if (lineStarts.size > 64) lineStarts.clear();
    const starts = [0];
    for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) starts.push(at + 1);
    starts.push(text.length + 1);
    lineStarts.set(number, starts);
  }
  const starts = lineStarts.get(number);
  return text.slice(starts[index % size], starts[(index % size) + 1] - 1);
}

// Search: lines in which the query occurs, capitals or not; `each` is called with more and more numbers, in slices of time.
// A tab separates utterances of one text, which a match may go across, or phrases, which it may not.
const GAP = about.kind === "context" ? " +" : "[ \\t]+";
const pattern = (query) => new RegExp(query.trim().replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replace(/\s+/g, GAP), "giu");
const channel = new MessageChannel();
const pause = () => new Promise((resolve) => {
  channel.port1.onmessage = resolve;
  channel.port2.postMessage(0);
});

function matches(text, wanted, base, push) {
  let [line, at] = [base, 0];
  wanted.lastIndex = 0;
  for (let match = wanted.exec(text); match; match = wanted.exec(text)) {
    let end = text.indexOf("\n", at);
    for (; end >= 0 && end < match.index; end = text.indexOf("\n", at)) {
      at = end + 1;
      line++;
    }
    push(line);
    if (end < 0) return;
    at = wanted.lastIndex = end + 1;
    line++;
  }
}

async function search(query, current, each) {
  const [size, wanted] = [about.sizes.text, pattern(query)];
  const count = Math.ceil(about.lines / size);
  let found = new Int32Array(1024), length = 0, slice = performance.now();
  const push = (line) => {
    if (length === found.length) {
      const larger = new Int32Array(2 * length);
      larger.set(found);
      found = larger;
    }
    found[length++] = line;
  };
  for (let number = 0; number < count; number++) {
    for (let ahead = number; ahead < Math.min(number + 6, count); ahead++) load("text", ahead).catch(() => {});
    const text = chunks.get(`text.${number}`) ?? (await load("text", number));
    if (!current()) return;
    matches(text, wanted, number * size, push);
    if (performance.now() - slice > 14) {
      each(found.subarray(0, length), (number + 1) / count);
      await pause();
      if (!current()) return;
      slice = performance.now();
    }
  }
  each(found.subarray(0, length), 1);
}

// Load the texts while the browser has nothing to do, so that a search finds them there.
function loadInBackground() {
  const count = Math.ceil(about.lines / about.sizes.text);
  const idle = window.requestIdleCallback ?? ((then) => setTimeout(then, 50));
  let number = 0;
  const next = () => {
    if (number < count) load("text", number++).then(() => idle(next), () => {});
  };
  idle(next);
}

// Numbers -> their indices, ascending or descending; NaN comes last; equal numbers keep their order. By radix, as a comparison
// of a million numbers takes seconds.
function sorted(values, descending) {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  let from = new Uint32Array(values.length), to = new Int32Array(values.length), order = new Int32Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const rising = bits[i] & 0x80000000 ? ~bits[i] : bits[i] | 0x80000000;
    from[i] = Number.isNaN(values[i]) ? 0xffffffff : descending ? ~rising : rising;
    order[i] = i;
  }
  for (const shift of [0, 16]) {
    const starts = new Uint32Array(65537);
    for (let i = 0; i < from.length; i++) starts[((from[i] >>> shift) & 0xffff) + 1]++;
    for (let i = 0; i < 65536; i++) starts[i + 1] += starts[i];
    for (let i = 0; i < from.length; i++) {
      const line = order[i];
      to[starts[(from[line] >>> shift) & 0xffff]++] = line;
    }
    [order, to] = [to, order];
  }
  return order;
}

// All lines by score ("high", "low") or by probability ("sure", "unsure").
const orders = new Map();
async function ordered(name) {
  const what = name === "sure" || name === "unsure" ? "sure" : "scores";
  if (!orders.has(name)) {
    const all = new Float32Array(about.lines);
    const parts = await Promise.all(Array.from({ length: Math.ceil(about.lines / about.sizes.best) }, (_, i) => load("best", i)));
    parts.forEach((part, i) => all.set(floats(part[what]), i * about.sizes.best));
    orders.set(name, sorted(all, name === "high" || name === "sure"));
  }
  return orders.get(name);
}

// Of an order of all lines those in `lines`.
function kept(order, lines) {
  const there = new Uint8Array(about.lines);
  for (const line of lines) there[line] = 1;
  return order.filter((line) => there[line]);
}

// Text with what matches marked.
function marked(place, text, query) {
  if (!query) return void (place.textContent = text);
  const wanted = pattern(query);
  let at = 0;
  place.textContent = "";
  for (const match of text.matchAll(wanted)) {
    place.append(text.slice(at, match.index), element("mark", {}, match[0]));
    at = match.index + match[0].length;
  }
  place.append(text.slice(at));
}

const number = (value) => value.toLocaleString("en");
const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;
// A picture, or a grey tile with its id where it can't be shown.
function image(id, { thumb: name, why }) {
  if (name) return element("img", { src: thumb(name), alt: id, loading: "lazy", decoding: "async" });
  return element("span", { className: "grey", textContent: `${id}: ${why}` });
}
// The picture in the enlarged view: its thumbnail, and its own file as soon as that is there. Only a page from disk may open files.
const fileOf = ({ url }) => (location.protocol === "file:" && url?.startsWith("file:///") ? url : "");
function large(id, info) {
  const shown = image(id, info);
  if (!info.thumb || !fileOf(info)) return shown;
  const whole = element("img", { src: info.url });
  whole.decode().then(() => (shown.src = info.url), () => {}); // where it is gone or of a kind that the browser does not know, the thumbnail stays
  return shown;
}
const fileLink = (info) => (fileOf(info) ? element("a", { href: info.url, textContent: info.file, target: "_blank", rel: "noopener noreferrer" }) : info.file);

const thumb = (name) => `${about.thumbs.split("/").map(encodeURIComponent).join("/")}/${name.slice(0, 2)}/${name}.webp`;

window.xvoken = { add };
