// The script of the player in a page that has just enough of a browser: what does it ask for?
// node player.js PAGE < {"values": {id: text}, "sources": [names], "supported": bool, "created": json text}
"use strict";
const fs = require("fs");
const vm = require("vm");
const page = fs.readFileSync(process.argv[2], "utf8");
const scenario = JSON.parse(fs.readFileSync(0, "utf8"));
const elements = {}, posted = [], deleted = [], asked = [];
function element(id) {
  const listeners = {}, classes = new Set();
  return elements[id] ??= {
    value: scenario.values[id] ?? "", textContent: "", hidden: false, style: {},
    classList: {add: (name) => classes.add(name), remove: (name) => classes.delete(name),
                toggle: (name, on) => on ? classes.add(name) : classes.delete(name)},
    addEventListener: (name, action) => { listeners[name] = action; },
    listeners, replaceChildren() {}, pause() {}, play: async () => {},
    canPlayType: () => scenario.supported ? "maybe" : "",
    buffered: [], currentTime: 0,
  };
}
class Source {
  static isTypeSupported() { return scenario.supported; }
  addEventListener() {}
}
async function fetch(url, options = {}) {
  if (options.method === "POST") posted.push(options.body);
  if (options.method === "DELETE") deleted.push(url);
  if (options.method === undefined) asked.push(url);
  const blocks = [{block_s: 0.5, video_s: 1, audio_s: 1}, {block_s: 0.5, video_s: 2, audio_s: 2}];
  const text = options.method === "POST" ? scenario.created : JSON.stringify({blocks, state: "streaming"});
  return {ok: true, status: 200, json: async () => JSON.parse(text)};
}
const window = {addEventListener() {}};
for (const name of scenario.sources) window[name] = Source;
const context = {
  document: {getElementById: element, createElement: () => element("made")}, window, fetch, performance,
  URL: {createObjectURL: () => "blob:", revokeObjectURL() {}}, AbortController, BigInt,
  setTimeout: (action) => { if (asked.length < 20) setImmediate(action); return 0; }, setInterval: () => 0, console,
};
for (const [name, value] of Object.entries(window)) context[name] = value;
vm.runInNewContext(page.match(/<script>([\s\S]*)<\/script>/)[1], context);
elements.form.listeners.submit({preventDefault() {}});
setTimeout(() => setImmediate(() => process.stdout.write(JSON.stringify({
  posted, deleted, asked, message: elements.message.textContent, button: elements.play.textContent,
  source: elements.video.src ?? null, remote: elements.video.disableRemotePlayback ?? null,
}))), 300);
