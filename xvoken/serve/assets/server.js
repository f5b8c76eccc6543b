"use strict";
// What is asked of the server. The token comes by the address (#token=...), and is kept for this tab alone.

const server = {
  token: "",
  key: "", // opens the pictures' addresses, since <img> can't send the token

  takeToken() {
    const given = new URLSearchParams(location.hash.slice(1));
    if (given.has("token")) {
      sessionStorage.setItem("token", given.get("token"));
      given.delete("token");
      history.replaceState(null, "", `${location.pathname}#${given}`);
    }
    this.token = sessionStorage.getItem("token") || "";
  },

  // The answer as an object; throws an Error with one line, its status in .status.
  async ask(path, options = {}) {
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    let answer;
    try {
      answer = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer. Is it still running?");
    }
    const said = await answer.json().catch(() => ({}));
    if (answer.ok) return said;
    throw Object.assign(new Error(said.error || `The server refused (${answer.status}).`), { status: answer.status });
  },

  post(path, content, signal) {
    return this.ask(path, { method: "POST", body: JSON.stringify(content), signal });
  },

  send(file, name, signal) {
    return this.ask(`/api/pictures?${new URLSearchParams({ name: name.slice(0, 200) })}`, { method: "POST", body: file, signal });
  },

  thumb(row, side) {
    return `/thumbs/${row}?side=${side}&key=${this.key}`;
  },

  picture(row) {
    return `/pictures/${row}?key=${this.key}`;
  },

  upload(picture) {
    return `/uploads/${encodeURIComponent(picture)}?key=${this.key}`;
  },
};
