"use strict";
// A form for each signature: its fields become a request of the protocol, and the answer a table.
(() => {
  const token = document.querySelector("#token");

  function shapeOf(value) {
    if (!Array.isArray(value)) return [];
    if (!value.length) return [0];
    const shapes = value.map(shapeOf);
    const first = JSON.stringify(shapes[0]);
    if (shapes.some((shape) => JSON.stringify(shape) !== first)) {
      throw new Error("the lists are of different lengths");
    }
    return [value.length, ...shapes[0]];
  }

  // `zeros(1, 784)` stands for as many zeros: nobody writes them.
  function arrayOf(text, isFlag) {
    const made = text.trim().match(/^zeros\(([\d\s,]*)\)$/);
    if (!made) {
      const data = JSON.parse(text);
      return { shape: shapeOf(data), data: Array.isArray(data) ? data.flat(Infinity) : [data] };
    }
    const shape = made[1].split(",").map((size) => size.trim()).filter(Boolean).map(Number);
    const count = shape.reduce((product, size) => product * size, 1);
    return { shape, data: Array(count).fill(isFlag ? false : 0) };
  }

  async function base64Of(file) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    let text = "";
    for (let at = 0; at < bytes.length; at += 32768) {
      text += String.fromCharCode(...bytes.subarray(at, at + 32768));
    }
    return btoa(text);
  }

  async function inputOf(field) {
    const { name, kind, datatype } = field.dataset;
    if (kind === "image") {
      const data = await Promise.all([...field.files].map(base64Of));
      const parameters = { content_type: "base64" };
      return { name, datatype: "BYTES", shape: [data.length], parameters, data };
    }
    if (kind === "text") {
      const data = field.value.split("\n").filter((line) => line !== "");
      return { name, datatype: "BYTES", shape: [data.length], data };
    }
    try {
      return { name, datatype, ...arrayOf(field.value, datatype === "BOOL") };
    } catch (error) {
      throw new Error(`${name}: ${error.message}`);
    }
  }

  function cell(tag, text) {
    const made = document.createElement(tag);
    made.textContent = text;
    return made;
  }

  function short(data) {
    const numbers = data.slice(0, 32).map((one) =>
      typeof one === "number" ? Number(one.toPrecision(6)) : one);
    return JSON.stringify(numbers) + (data.length > 32 ? ` and ${data.length - 32} more` : "");
  }

  function show(place, outputs) {
    const table = document.createElement("table");
    for (const one of outputs) {
      const row = document.createElement("tr");
      row.append(cell("th", one.name), cell("td", `${one.datatype} [${one.shape.join(", ")}]`));
      row.append(cell("td", short(one.data)));
      table.append(row);
    }
    place.replaceChildren(table);
  }

  function curl(path, body) {
    const text = JSON.stringify(body).replaceAll("'", "'\\''");
    return text.length > 4000 ? "" : `curl -s ${location.origin}${path} -d '${text}'`;
  }

  async function call(form) {
    const said = form.querySelector("output");
    const place = form.querySelector(".answer");
    const again = form.querySelector("pre");
    said.className = "";
    said.textContent = "…";
    place.replaceChildren();
    try {
      const fields = [...form.querySelectorAll("[data-name]")];
      const filled = fields.filter((field) => field.value !== "");
      const body = { inputs: await Promise.all(filled.map(inputOf)) };
      if (form.dataset.signature) body.parameters = { signature_name: form.dataset.signature };
      const version = form.querySelector("select")?.value;
      const path = `/v2/models/${encodeURIComponent(form.dataset.model)}` +
        `${version ? `/versions/${version}` : ""}/infer`;
      again.firstChild.textContent = curl(path, body);
      again.hidden = !again.firstChild.textContent;
      const headers = token?.value ? { authorization: `Bearer ${token.value}` } : {};
      const start = performance.now();
      const reply = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
      const text = (await reply.text()).replace(/\b(NaN|-?Infinity)\b/g, '"$1"');
      const milliseconds = performance.now() - start;
      const found = JSON.parse(text);
      if (!reply.ok) throw new Error(found.error);
      said.textContent = `version ${found.model_version}, ${milliseconds.toFixed(1)} ms`;
      show(place, found.outputs);
    } catch (error) {
      said.className = "alarm";
      said.textContent = error.message;
    }
  }

  for (const form of document.querySelectorAll("form")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      call(form);
    });
  }
})();
