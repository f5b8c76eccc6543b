"use strict";
// The page: the address's query is the one state; all that changes the query changes the address, and the page follows.

const PAGE = 24;
const HINT = "Write a sentence, or drop, paste or choose a picture.";
const $ = (selector, inside = document) => inside.querySelector(selector);
const names = new Map(); // of rows that were found, for the query's parts
let about = { pictures: 0, phrases: 0, upload: 0 }; // what the server says of itself
let query = { parts: [], alike: false };
let results = [];
let running = new AbortController();
let sending = new AbortController();

function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function say(text) {
  $("#said").textContent = text;
}

function complain(error) {
  if (error.name === "AbortError") return;
  $("#wrong").textContent = error.message || String(error);
  $("#door").hidden = error.status !== 401;
}

// Changing the query

function go(parts, alike = query.alike) {
  const written = writeQuery({ parts, alike });
  if (written === writeQuery(query)) follow();
  else location.hash = written;
}

function add(part, weight) {
  go([...query.parts, { ...part, weight }]);
}

function goFromParts(parts) {
  $("#parts").focus(); // the button is about to go
  go(parts);
}

function addText(weight) {
  const text = $("#text").value.trim();
  if (text) {
    $("#text").value = "";
    add({ text }, weight);
  }
  $("#text").focus();
}

async function searchFile(file) {
  $("#wrong").textContent = "";
  sending.abort();
  sending = new AbortController();
  const { signal } = sending;
  if (about.upload && file.size > about.upload) return complain(new Error(`This file is larger than ${about.upload >> 20} MB.`));
  say("Sending the picture…");
  try {
    const sent = await server.send(file, file.name || "pasted picture", signal);
    if (!signal.aborted) go([{ picture: sent.picture, name: sent.name, weight: 1 }]);
  } catch (error) {
    if (!signal.aborted) say("");
    complain(error);
  }
}

// Following the address

async function follow(k = PAGE) {
  query = readQuery(location.hash);
  sending.abort(); // what was asked last wins
  running.abort();
  running = new AbortController();
  const { signal } = running;
  $("#large").close(); // its neighbours are about to be others
  $("#alike").checked = query.alike;
  $("#wrong").textContent = "";
  showParts();
  if (!query.parts.length || !(about.pictures || about.phrases)) return show([], k);
  const started = performance.now();
  say("Searching…");
  $("#results").setAttribute("aria-busy", "true"); // what still stands there belongs to another query
  try {
    const found = await server.post("/api/search", asked(query, k), signal);
    if (signal.aborted) return;
    query.parts.forEach((part, place) => (part.name = found.parts[place]));
    showParts();
    show(found.results, k);
    const sure = found.probability === null ? "" : ` The first one is right with a probability of ${Math.round(found.probability * 100)}%.`;
    const count = `${found.results.length} of ${about.pictures.toLocaleString("en")} pictures`;
    if (found.results.length) say(`${count}, best first, in ${Math.round(performance.now() - started)} ms.${sure}`);
    await showPhrases($("#phrases ol"), query.parts, signal);
    $("#phrases").hidden = !$("#phrases ol").children.length;
  } catch (error) {
    if (!signal.aborted) show([], k);
    complain(error);
  }
}

async function showPhrases(list, parts, signal) {
  list.replaceChildren();
  if (!about.phrases || !parts.length || parts.some((part) => part.text !== undefined)) return;
  const found = await server.post("/api/phrases", asked({ parts }, 8), signal);
  if (signal.aborted) return;
  const line = ({ phrase, score }) => make("li", { dir: "auto" }, phrase, make("span", { className: "score" }, score.toFixed(3)));
  list.replaceChildren(...found.phrases.map(line));
}

function showParts() {
  $("#parts").replaceChildren(
    ...query.parts.map((part, place) => {
      const others = query.parts.filter((_, other) => other !== place);
      const name = part.name || names.get(part.row) || `row ${part.row}`;
      const turned = query.parts.map((one, other) => (other === place ? { ...one, weight: -one.weight } : one));
      const sign = make("button", { type: "button", title: part.weight < 0 ? "Add it instead" : "Subtract it instead" });
      sign.textContent = part.weight < 0 ? "−" : "+";
      sign.setAttribute("aria-label", `${part.weight < 0 ? "Subtracted" : "Added"}: ${name}. ${sign.title}`);
      sign.addEventListener("click", () => goFromParts(turned));
      const remove = make("button", { type: "button", textContent: "×" });
      remove.setAttribute("aria-label", `Take out: ${name}`);
      remove.addEventListener("click", () => goFromParts(others));
      const source = part.row !== undefined ? server.thumb(part.row, 400) : part.picture && server.upload(part.picture);
      const small = source ? [make("img", { src: source, alt: "" })] : [];
      small.forEach((image) => image.addEventListener("error", () => image.remove()));
      const item = make("li", { className: part.weight < 0 ? "less" : "" });
      item.append(sign, ...small, make("span", { className: "name", dir: "auto", title: name }, name), remove);
      return item;
    }),
  );
}

function show(found, k) {
  results = found;
  $("#results").removeAttribute("aria-busy");
  found.forEach((hit) => names.set(hit.row, hit.id));
  if (!found.length) {
    $("#phrases").hidden = true;
    say(about.pictures ? HINT : "There are no pictures in this gallery.");
  }
  const old = k > PAGE ? [...$("#results").children] : []; // more of the same: what stands there stays
  const same = (hit, place) => old[place] && old[place].dataset.row === String(hit.row);
  $("#results").replaceChildren(...found.map((hit, place) => (same(hit, place) ? old[place] : tile(hit))));
  $("#more").hidden = found.length < k || k >= Math.min(about.pictures, 480);
}

function tile(hit) {
  const item = $("#result").content.cloneNode(true).firstElementChild;
  const image = $("img", item);
  item.dataset.row = hit.row;
  image.src = server.thumb(hit.row, 400);
  image.srcset = `${server.thumb(hit.row, 400)} 1x, ${server.thumb(hit.row, 800)} 2x`;
  image.alt = hit.id;
  image.addEventListener("error", () => $(".picture", item).classList.add("missing"));
  $(".picture", item).addEventListener("click", () => enlarge(hit.rank - 1));
  $(".score", item).textContent = hit.score.toFixed(3);
  $(".name", item).textContent = $(".name", item).title = hit.id;
  if (hit.copies > 1) {
    $(".copies", item).hidden = false;
    $(".copies", item).textContent = `one of ${hit.copies} near-duplicates`;
  }
  $(".actions", item).append(...actions(hit));
  return item;
}

function actions(hit) {
  const wanted = [["Similar", 0, "Search with"], ["+ Add", 1, "Add"], ["− Subtract", -1, "Subtract"]];
  return wanted.map(([label, weight, does]) => {
    const button = make("button", { type: "button", textContent: label });
    button.setAttribute("aria-label", `${label}: ${does} ${hit.id}`);
    button.addEventListener("click", () => {
      $("#large").close();
      $("#results").focus({ preventScroll: true }); // the button is about to go
      window.scrollTo(0, 0);
      if (weight) add({ row: hit.row }, weight);
      else go([{ row: hit.row, weight: 1 }]);
    });
    return button;
  });
}

// One picture, large

let enlarged = 0;
let describing = new AbortController();

function enlarge(place) {
  const hit = results[place];
  if (!hit) return;
  enlarged = place;
  const large = $("#large");
  Object.assign($("img", large), { src: server.picture(hit.row), alt: hit.id });
  $("h2", large).textContent = hit.id;
  $(".path", large).textContent = `${hit.path}, score ${hit.score.toFixed(3)}, row ${hit.row}`;
  $(".actions", large).replaceChildren(...actions(hit));
  $("#before").disabled = !place;
  $("#next").disabled = place === results.length - 1;
  describing.abort(); // the phrases of the picture before
  describing = new AbortController();
  showPhrases($(".phrases", large), [{ row: hit.row, weight: 1 }], describing.signal).catch(() => {});
  if (!large.open) large.showModal();
}

// What users do

$("#ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("#text").value.trim();
  if (text) go([{ text, weight: 1 }]);
});
$("#plus").addEventListener("click", () => addText(1));
$("#minus").addEventListener("click", () => addText(-1));
$("#alike").addEventListener("change", () => go(query.parts, $("#alike").checked));
$("#choose").addEventListener("click", () => $("#file").click());
$("#file").addEventListener("change", () => {
  if ($("#file").files.length) searchFile($("#file").files[0]);
  $("#file").value = "";
});
$("#more").addEventListener("click", () => follow(results.length + PAGE));
$("#before").addEventListener("click", () => enlarge(enlarged - 1));
$("#next").addEventListener("click", () => enlarge(enlarged + 1));
$("#door").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("#token").value.trim());
  start();
});
$(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the part behind # is the query
  $("#results").focus();
});

document.addEventListener("keydown", (event) => {
  if ($("#large").open && event.key === "ArrowLeft") enlarge(enlarged - 1);
  else if ($("#large").open && event.key === "ArrowRight") enlarge(enlarged + 1);
  else if (event.key === "/" && !event.target.closest("input, dialog")) {
    event.preventDefault();
    $("#text").focus();
  }
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) {
    event.preventDefault();
    searchFile(file);
  }
});
document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length) searchFile(event.dataTransfer.files[0]);
});
window.addEventListener("hashchange", () => (location.hash.includes("token=") ? start() : follow()));

async function start() {
  server.takeToken();
  $("#door").hidden = true;
  $("#wrong").textContent = "";
  try {
    about = await server.ask("/api/status");
    server.key = about.key;
    $("#gallery").textContent = `${about.pictures.toLocaleString("en")} pictures, ${about.model}`;
    const { parts } = readQuery(location.hash);
    if (parts.length === 1 && parts[0].text) $("#text").value = parts[0].text;
    await follow();
  } catch (error) {
    complain(error);
  }
}
start();
