// The page of a voken file: lines of a corpus with the pictures found for them.
const [LINES, PICTURES] = [about.sizes.found, about.sizes.pictures];
const MOST = 8; // pictures in a row of the list; further ones follow in the enlarged view
// A row of the list is a line of the text, or, where the page says so, a sentence or one of the lines that a filter has kept.
const noun = about.noun ?? "line";
const Nouns = `${noun[0].toUpperCase()}${noun.slice(1)}s`;
const unpackFound = (value) => ({ rows: integers(value.rows), scores: floats(value.scores), lines: value.lines && integers(value.lines) });

// The pictures of a line, best first: [{slot, score}], undefined while they are loaded.
function foundFor(line) {
  const chunk = peekDecoded("found", Math.floor(line / LINES), unpackFound);
  if (!chunk) return undefined;
  const from = (line % LINES) * about.k;
  const places = Array.from({ length: about.k }, (_, i) => ({ slot: chunk.rows[from + i], score: chunk.scores[from + i] }));
  return places.filter(({ slot }) => slot >= 0);
}
// Of a row that is not simply a line: where it stands in the text.
function standsAt(line) {
  const lines = peekDecoded("found", Math.floor(line / LINES), unpackFound)?.lines;
  return lines ? ` · line ${number(lines[line % LINES] + 1)} of the text` : "";
}
const pictureOf = (slot) => peek("pictures", Math.floor(slot / PICTURES))?.[slot % PICTURES];

function tile(info, under, label, open) {
  const made = element("button", { type: "button", className: "tile", ariaLabel: label }, image(info.id, info), ...under);
  made.addEventListener("click", open);
  return made;
}

function make() {
  const row = element("article", {},
    element("div", {}, element("p", { className: "number" }), element("div", { className: "text", dir: "auto" })),
    element("div", { className: "found" }));
  row.shown = "";
  return row;
}

function fill(row, line) {
  const [text, found] = [lineOf(line), foundFor(line)];
  const infos = found?.map(({ slot }) => pictureOf(slot));
  const sure = about.sure ? sureOf(line) : NaN;
  const ready = text !== undefined && sure !== undefined && infos?.every(Boolean);
  const active = row.tabIndex === 0;
  for (const button of row.querySelectorAll("button")) button.tabIndex = active ? 0 : -1;
  const shown = `${line} ${ready} ${found !== undefined} ${text !== undefined} ${chosen}`;
  if (row.shown === shown) return;
  row.shown = shown;
  const [[numbered, said], pictures] = [row.firstChild.children, row.lastChild];
  row.ariaLabel = `${noun} ${number(line + 1)}`;
  numbered.replaceChildren(element("a", { href: address({ line: line + 1 }), textContent: row.ariaLabel, tabIndex: -1 }), standsAt(line));
  if (text !== undefined) say(said, text.slice(0, 2000));
  else said.textContent = "…";
  if (!ready) return pictures.replaceChildren();
  if (!found.length) {
    if (!text.trim()) return pictures.replaceChildren(); // its text says that it is empty
    return pictures.replaceChildren(element("p", { className: "quiet none", textContent: "left without a picture" }));
  }
  if (!Number.isNaN(sure)) numbered.append(` · ${Math.round(100 * sure)}% sure`);
  if (found.length > MOST) numbered.append(` · ${plural(found.length - MOST, "more picture")}`);
  // The picture that the list is filtered by is marked, and among those in the row.
  const wanted = found.findIndex(({ slot }) => String(slot) === state().picture);
  const places = Array.from(found.keys()).filter((i) => i < (wanted < MOST ? MOST : MOST - 1) || i === wanted);
  pictures.replaceChildren(...places.map((i) => {
    const { slot, score } = found[i];
    const label = `${infos[i].id}, score ${score.toFixed(3)}${i === wanted ? ", the picture of this list" : ""}`;
    const made = tile(infos[i], [score.toFixed(3)], label, () => go({ show: slot, of: line + 1 }));
    made.classList.toggle("wanted", i === wanted);
    made.tabIndex = active ? 0 : -1;
    return made;
  }));
}

// The utterances of a line, which tabs separate.
function say(place, text) {
  const { q } = state();
  if (!text.trim()) return place.replaceChildren(element("p", { className: "quiet", textContent: `empty ${noun}` }));
  place.replaceChildren(...text.split("\t").map((said) => {
    const made = element("p", { dir: "auto" });
    marked(made, said, q);
    return made;
  }));
}

function sureOf(line) {
  const chunk = peekDecoded("best", Math.floor(line / about.sizes.best), (value) => ({ sure: floats(value.sure) }));
  return chunk?.sure[line % about.sizes.best];
}

async function usesOf(slot) {
  const info = (await load("pictures", Math.floor(slot / PICTURES)))[slot % PICTURES];
  const [chunk, from] = info.uses;
  return integers(await load("uses", chunk)).subarray(from, from + info.lines);
}
const isSlot = (text) => /^\d+$/.test(text ?? "") && Number(text) < about.pictures;

// The picture before or after the one that is enlarged: of its line, or of all by their use; null where there is none.
function beside(by) {
  const { show, of } = state();
  if (!of) return isSlot(String(Number(show) + by)) ? { show: Number(show) + by } : null;
  const found = foundFor(Number(of) - 1) ?? [];
  const place = found.findIndex(({ slot }) => slot === Number(show));
  return place >= 0 && found[place + by] ? { show: found[place + by].slot } : null;
}

// The licences of Creative Commons by their short names.
function licence(text) {
  const found = /creativecommons\.org\/(?:licenses|publicdomain)\/([a-z-]+)\/([\d.]+)/.exec(text);
  return found ? `${found[1] === "zero" ? "CC0" : `CC ${found[1].toUpperCase()}`} ${found[2]}` : text;
}
function linked(text, url) {
  if (!/^https?:\/\//i.test(url ?? "")) return element("span", { textContent: text, dir: "auto" });
  return element("a", { href: url, textContent: text, dir: "auto", rel: "noopener noreferrer", target: "_blank" });
}

function drawDialog(inside, now) {
  if (!isSlot(now.show)) return false;
  const slot = Number(now.show);
  const line = Number(now.of) - 1;
  const ofLine = line >= 0 && line < about.lines;
  const info = pictureOf(slot);
  if (!info || (ofLine && (!foundFor(line) || lineOf(line) === undefined))) {
    const needed = [load("pictures", Math.floor(slot / PICTURES))];
    if (ofLine) needed.push(load("found", Math.floor(line / LINES)), load("text", Math.floor(line / about.sizes.text)));
    Promise.all(needed).then(() => update(), () => {});
    return false;
  }
  const facts = element("dl");
  const fact = (name, ...what) => facts.append(element("dt", { textContent: name }), element("dd", {}, ...what));
  const place = ofLine ? foundFor(line).findIndex((one) => one.slot === slot) : -1;
  if (place >= 0) fact("Score", `${foundFor(line)[place].score.toFixed(4)}, ${place + 1} of ${about.k} for ${noun} ${number(line + 1)}${standsAt(line)}`);
  fact("Used by", `${plural(info.lines, noun)} (${percent(info.lines)}), best for ${number(info.firsts)}`);
  fact("File", fileLink(info));
  const credit = info.credit ?? {};
  if (credit.title) fact("Title", linked(credit.title));
  if (credit.author) fact("Author", linked(credit.author, credit.profile));
  if (credit.license) fact("Licence", linked(licence(credit.license), credit.license));
  if (credit.source) fact("Source", linked(/^https?:..([^/?#]+)/i.exec(credit.source)?.[1] ?? "", credit.source));
  const all = element("button", { type: "button", textContent: `Show the ${plural(info.lines, noun)} with it` });
  all.addEventListener("click", () => go({ show: "", of: "", view: "", q: "", line: "", picture: slot }));
  const uses = element("ol", { className: "uses" });
  const text = place >= 0 ? lineOf(line) : undefined;
  const whole = element("div", { className: "text", dir: "auto" });
  if (text !== undefined) say(whole, text);
  const heading = element("h2", { id: "enlarged-title", textContent: info.id });
  inside.replaceChildren(element("div", { className: "enlarged" }, element("div", {}, large(info.id, info)),
    element("div", {}, heading, ...(text === undefined ? [] : [whole]), element("div", { className: "buttons" }, all), facts, uses)));
  usesOf(slot).then(async (found) => {
    for (const one of found.subarray(0, 6)) {
      await load("text", Math.floor(one / about.sizes.text));
      const text = element("a", { href: `#line=${one + 1}`, dir: "auto" });
      marked(text, lineOf(one).replaceAll("\t", " · ").slice(0, 160) || `empty ${noun}`, "");
      uses.append(element("li", {}, text));
    }
  });
  return true;
}

const percent = (count) => `${(100 * count / Math.max(1, about.answered)).toFixed(count < about.answered / 10 ? 1 : 0)}%`;
let hubsShown = 0;
async function drawView(view) {
  if (view !== "pictures" || hubsShown) return;
  if (!about.pictures) {
    $("more").hidden = true;
    $("hubs-told").textContent = `No ${noun} has a picture.`;
    return;
  }
  const top = Math.round((100 * about.top) / Math.max(1, about.places));
  const most = about.pictures > 10 ? `; ${top} of every 100 pictures beside the lines are one of the 10 most used` : "";
  $("hubs-told").textContent = `${plural(about.pictures, "picture")} of ${number(about.gallery)} ${about.pictures === 1 ? "is" : "are"} found for `
    + `${plural(about.answered, noun)}${most}.`;
  $("more").addEventListener("click", moreHubs);
  await moreHubs();
}
async function moreHubs() {
  const from = hubsShown;
  hubsShown = Math.min(about.pictures, from + 60);
  $("more").hidden = hubsShown >= about.pictures;
  const highest = (await load("pictures", 0))[0].lines; // the bar of the most used picture is as wide as the picture
  for (let slot = from; slot < hubsShown; slot++) {
    const info = (await load("pictures", Math.floor(slot / PICTURES)))[slot % PICTURES];
    const bar = element("span", { className: "share" }, element("i", { style: `width:${((100 * info.lines) / highest).toFixed(2)}%` }));
    const under = [bar, `${plural(info.lines, noun)} · ${percent(info.lines)}`];
    $("hubs").append(element("li", {}, tile(info, under, `${info.id}, ${plural(info.lines, noun)}, ${percent(info.lines)}`, () => go({ show: slot, of: "" }))));
  }
}

start({
  noun,
  searched: "text",
  holds: "contains",
  summary: `${plural(about.lines, noun)}, for each the best ${about.k === 1 ? "picture" : about.k} of ${plural(about.gallery, "picture")}${about.named.model && `, found by ${modelName(about.named.model)}`}`,
  views: { "": Nouns, pictures: "Pictures", ...($("view-good").children.length > 1 ? { good: "How good" } : {}), about: "About" },
  orders: {
    "": "As in the file", high: "Highest score first", low: "Lowest score first",
    ...(about.sure ? { sure: "Surest first", unsure: "Least sure first" } : {}),
  },
  told: [
    ["Text", about.named.text], ["Pictures", about.named.sets], ["Found by", about.named.model], ["Precision", about.named.precision], ["Scores", about.named.scores],
    [`${Nouns} with a picture`, `${number(about.answered)} of ${number(about.lines)}`],
    ["Pictures used", `${number(about.pictures)} of ${number(about.gallery)}`],
    ["Can't be shown", about.broken && plural(about.broken, "picture")],
  ],
  make, fill, drawDialog, drawView, beside,
  enter: (line) => foundFor(line)?.length && go({ show: foundFor(line)[0].slot, of: line + 1 }),
  filtered: async (now) => (isSlot(now.picture) ? usesOf(Number(now.picture)) : null),
  filter: (now) => `with ${pictureOf(Number(now.picture))?.id ?? "one picture"}`,
});
