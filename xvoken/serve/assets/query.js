"use strict";
// The query as it stands behind the # of the address: parts such as plus=t:a+dog, minus=r:12 (a row), plus=p:ID:NAME (a sent picture).

function readQuery(fragment) {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const parts = [];
  for (const [sign, value] of given) {
    const found = /^([trp]):([^]*)$/.exec(value);
    if (!found || (sign !== "plus" && sign !== "minus")) continue;
    const part = { weight: sign === "minus" ? -1 : 1 };
    if (found[1] === "t") part.text = part.name = found[2];
    else if (found[1] === "r" && /^\d{1,15}$/.test(found[2])) part.row = Number(found[2]);
    else if (found[1] === "p") [part.picture, part.name] = [found[2].split(":", 1)[0], found[2].slice(found[2].indexOf(":") + 1)];
    else continue;
    parts.push(part);
  }
  return { parts, alike: given.has("alike") };
}

function writeQuery(query) {
  const written = new URLSearchParams();
  for (const part of query.parts) {
    const what = part.text !== undefined ? `t:${part.text}` : part.row !== undefined ? `r:${part.row}` : `p:${part.picture}:${part.name}`;
    written.append(part.weight < 0 ? "minus" : "plus", what);
  }
  if (query.alike) written.append("alike", "1");
  return written.toString();
}

// As the server wants it.
function asked(query, k) {
  const parts = query.parts.map(({ text, row, picture, weight }) => ({ text, row, picture, weight }));
  return query.alike ? { parts, k, alike: 0.95 } : { parts, k };
}
