// Stands in for the kernel on a static page: answers the explorer's questions from the data in the page.
const page = JSON.parse(document.getElementById("data").textContent);
const state = page.state;
const listeners = {};
const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const told = {};
render({
  el: document.getElementById("explorer"),
  model: {
    get: (name) => state[name],
    set: (name, value) => {
      state[name] = value;
      told[name] = true;
    },
    save_changes: () => {
      for (const name of Object.keys(told)) {
        delete told[name];
        (listeners[`change:${name}`] || (() => {}))();
      }
    },
    on: (name, listener) => (listeners[name] = listener),
    off: (name) => delete listeners[name],
    send: (ask) => {
      const [content, buffers] = page.answers[JSON.stringify(ask)] || [{ error: "this is not in this page; open notebooks/explore.ipynb for it" }, []];
      setTimeout(() => listeners["msg:custom"]({ ...content, ask }, buffers.map(bytes)));
    },
  },
});
