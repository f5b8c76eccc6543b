// The page of a context file: pictures with their crops drawn in, and the phrases found for each.
const PANELS = { whole: "Whole", five: "Five crops", nine: "Nine crops" };
const CROPS = about.boxes.length;

// Of a picture: {id, thumb or why, crops: of each of its views the phrases [{text, score}], best first}; undefined while it is loaded.
function pictureOf(index) {
  const [line, size] = [lineOf(index), about.sizes.views];
  const chunk = peekDecoded("views", Math.floor(index / size), (value) =>
    ({ which: integers(value.which), scores: floats(value.scores), thumbs: value.thumbs }));
  if (line === undefined || !chunk) return undefined;
  const texts = line.split("\t");
  const crops = Array.from({ length: CROPS }, (_, crop) => Array.from({ length: about.k }, (_, place) => {
    const at = ((index % size) * CROPS + crop) * about.k + place;
    return { text: texts[chunk.which[at]], score: chunk.scores[at] };
  }));
  return { id: texts[0], ...chunk.thumbs[index % size], crops };
}

// Which phrases the query asks for; null without one, or where it asks for none of the picture's.
function wantedOf(picture) {
  const wanted = state().q ? pattern(state().q) : null;
  const asked = wanted && (({ text }) => text.search(wanted) >= 0);
  return asked && picture.crops.some((crop) => crop.some(asked)) ? asked : null;
}

// The picture (an image of it) with the crops of a view drawn in, each with its number, and fainter those without an asked phrase.
function framed(picture, view, shown) {
  const [first, end] = about.views[view];
  const asked = wantedOf(picture);
  const frame = element("div", { className: "frame" }, shown);
  for (let crop = first; crop < end && view !== "whole"; crop++) {
    const [left, top, right, bottom] = about.boxes[crop].map((share) => 100 * share);
    const box = element("span", { className: "crop", ariaHidden: "true" }, element("b", { textContent: crop - first + 1 }));
    Object.assign(box.style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
    box.dataset.crop = crop;
    box.classList.toggle("other", Boolean(asked && !picture.crops[crop].some(asked)));
    frame.append(box);
  }
  return frame;
}

function phrase(one, asked) {
  const said = element("span", { dir: "auto", className: "phrase" });
  marked(said, one.text, state().q);
  return element("li", { className: asked && !asked(one) ? "other" : "" }, said, " ", element("small", { textContent: one.score.toFixed(3) }));
}

// One view of a picture: the best phrases of the whole, or of each crop the best phrase that the query asks for, else its best one.
function panel(picture, view, index) {
  const [first, end] = about.views[view];
  const asked = wantedOf(picture);
  const best = (crop) => (asked && crop.find(asked)) ?? crop[0];
  const phrases = view === "whole" ? picture.crops[0] : picture.crops.slice(first, end).map(best);
  const listed = element("ol", {}, ...phrases.map((one, i) => {
    const made = phrase(one, asked);
    if (view !== "whole") made.dataset.crop = first + i;
    return made;
  }));
  const open = element("button", { type: "button", className: "open", ariaLabel: `${picture.id}, ${PANELS[view]}` },
    framed(picture, view, image(picture.id, picture)));
  open.addEventListener("click", () => go({ show: index + 1, of: view }));
  return element("div", { className: "panel" }, open, element("p", { className: "number", textContent: PANELS[view] }), listed);
}

// A crop and its phrases are lit together.
function light(event) {
  const panels = event.target.closest?.(".panel");
  if (!panels) return;
  const crop = event.target.closest("[data-crop]")?.dataset.crop;
  for (const part of panels.querySelectorAll("[data-crop]")) {
    part.classList.toggle("lit", part.dataset.crop === crop);
    part.classList.toggle("dim", crop !== undefined && part.dataset.crop !== crop);
  }
}
for (const kind of ["mouseover", "focusin", "mouseout", "focusout"]) document.addEventListener(kind, light);

function make() {
  return element("article", {}, element("h3", { dir: "auto" }), element("div", { className: "panels" }));
}

function fill(row, index) {
  const picture = pictureOf(index);
  const shown = `${index} ${Boolean(picture)} ${chosen}`;
  if (row.shown !== shown) {
    row.shown = shown;
    row.ariaLabel = picture ? `picture ${picture.id}` : `picture ${number(index + 1)}`;
    marked(row.firstChild, picture ? picture.id : "…", picture && state().q);
    row.lastChild.replaceChildren(...(picture ? Object.keys(PANELS).map((view) => panel(picture, view, index)) : []));
  }
  for (const button of row.querySelectorAll("button")) button.tabIndex = row.tabIndex;
}

function drawDialog(inside, now) {
  const index = Number(now.show) - 1;
  if (!(index >= 0 && index < about.lines)) return false;
  const view = now.of in PANELS ? now.of : "whole";
  const picture = pictureOf(index);
  if (!picture) {
    Promise.all([load("text", Math.floor(index / about.sizes.text)), load("views", Math.floor(index / about.sizes.views))]).then(() => update());
    return false;
  }
  const views = Object.entries(PANELS).map(([name, text]) => {
    const made = element("button", { type: "button", textContent: text, ariaPressed: String(name === view) });
    made.addEventListener("click", () => go({ of: name }, true));
    return made;
  });
  const [first, end] = about.views[view];
  const asked = wantedOf(picture);
  const crops = picture.crops.slice(first, end).map((phrases, i) => {
    const heading = view === "whole" ? [] : [element("h3", { textContent: `Crop ${i + 1}` })];
    const made = element("div", {}, ...heading, element("ol", {}, ...phrases.map((one) => phrase(one, asked))));
    if (view !== "whole") made.dataset.crop = first + i;
    return made;
  });
  const shown = large(picture.id, picture);
  const frame = framed(picture, view, shown);
  shown.addEventListener("load", () => frame.style.setProperty("--shape", shown.naturalWidth / shown.naturalHeight));
  const file = picture.file ? [element("dl", {}, element("dt", { textContent: "File" }), element("dd", {}, fileLink(picture)))] : [];
  inside.replaceChildren(element("div", { className: "enlarged panel" }, element("div", {}, frame),
    element("div", {}, element("h2", { id: "enlarged-title", textContent: picture.id }), ...file,
      element("div", { className: "buttons" }, ...views), ...crops)));
  return true;
}

start({
  noun: "picture",
  searched: "phrases",
  holds: "has a phrase with",
  summary: `${plural(about.lines, "picture")}, for each the best ${about.k === 1 ? "phrase" : `${about.k} phrases`} of the whole and the best phrase of each of five and of nine crops${about.k === 1 ? "" : ` (all ${about.k} when enlarged)`}${about.named.model && `, found by ${modelName(about.named.model)}`}`,
  views: { "": "Pictures", about: "About" },
  orders: { "": "As in the file", high: "Highest score first", low: "Lowest score first" },
  told: [
    ["File", about.named.text], ["Pictures", about.named.sets], ["Found by", about.named.model], ["Precision", about.named.precision], ["Scores", about.named.scores],
    ["Can't be shown", about.broken && plural(about.broken, "picture")],
  ],
  make, fill, drawDialog,
  drawView: () => {},
  beside: (by) => {
    const shown = Number(state().show) - 1;
    const place = (lines ? lines.indexOf(shown) : shown) + by;
    return place - by >= 0 && place >= 0 && place < list.total ? { show: at(place) + 1 } : null;
  },
  enter: (index) => go({ show: index + 1, of: "whole" }),
  filtered: async () => null,
  filter: () => "",
});
