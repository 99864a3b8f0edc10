// The reply browser, and details that open for printing. Text enters the page as text only, never as HTML.
(function () {
  "use strict";
  const PAGE = 50;

  let closed = [];
  window.addEventListener("beforeprint", function () {
    closed = Array.from(document.querySelectorAll("details:not([open])"));
    closed.forEach(function (details) { details.open = true; });
  });
  window.addEventListener("afterprint", function () {
    closed.forEach(function (details) { details.open = false; });
  });

  const source = document.getElementById("reply-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const form = document.getElementById("filters");
  const list = document.getElementById("rows");
  const more = document.getElementById("more");

  // Computed once, so that a filter only compares numbers and searches text that is lower-cased already.
  const UNKNOWN = 2;
  const texts = data.rows.map(function (row) {
    return (data.contexts[row.c].join("\n") + "\n" + row.r).toLowerCase();
  });
  const right = data.attributes.map(function (_, k) {
    return Uint8Array.from(data.rows, function (row) {
      return row.t[k] < 0 || !row.h[k] ? UNKNOWN : Number(row.h[k][0] === row.t[k]);
    });
  });
  const jointly = Uint8Array.from(data.rows, function (row, i) {
    const named = right.filter(function (_, k) { return row.t[k] >= 0; }).map(function (column) { return column[i]; });
    return !named.length || named.includes(UNKNOWN) ? UNKNOWN : Number(!named.includes(0));
  });
  const numbers = {
    coherence: Float64Array.from(data.rows, function (row) { return row.n === null ? NaN : row.n; }),
    probability: Float64Array.from(data.rows, jointProbability),
  };
  let shown = [];
  let drawn = 0;

  function jointProbability(row) {
    const wanted = row.t.map(function (_, k) { return k; }).filter(function (k) { return row.t[k] >= 0; });
    if (!wanted.length || wanted.some(function (k) { return !row.h[k] || row.h[k][2] === null; })) return NaN;
    return wanted.reduce(function (product, k) { return product * row.h[k][2]; }, 1);
  }

  function settings() {
    const tests = [];
    form.querySelectorAll("select[name=wanted]").forEach(function (select) {
      const k = Number(select.dataset.attribute), aspect = Number(select.value);
      if (select.value !== "") tests.push(function (i) { return data.rows[i].t[k] === aspect; });
    });
    form.querySelectorAll("select[name=predicted]").forEach(function (select) {
      const column = right[Number(select.dataset.attribute)], sought = Number(select.value === "right");
      if (select.value !== "") tests.push(function (i) { return column[i] === sought; });
    });
    if (form.elements.joint.value !== "") {
      const sought = Number(form.elements.joint.value === "right");
      tests.push(function (i) { return jointly[i] === sought; });
    }
    const least = parseFloat(form.elements.coherence.value);
    if (least > 0) tests.push(function (i) { return numbers.coherence[i] >= least; });
    const words = form.elements.words.value.trim().toLowerCase();
    if (words) tests.push(function (i) { return texts[i].includes(words); });
    return tests;
  }

  function sorted(indices) {
    const order = form.elements.order.value.split(",");
    if (order.length < 2) return indices;
    const column = numbers[order[0]], direction = Number(order[1]);
    return indices.sort(function (a, b) {
      const x = column[a], y = column[b];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y) || a - b;  // the unknown comes last
      return direction * (x - y) || a - b;
    });
  }

  function update() {
    const started = performance.now();
    const tests = settings();
    const found = [];
    for (let i = 0; i < data.rows.length; i++) {
      let fits = true;
      for (let t = 0; t < tests.length && fits; t++) fits = tests[t](i);
      if (fits) found.push(i);
    }
    shown = sorted(found);
    drawn = 0;
    list.replaceChildren();
    draw();
    window.__lastFilterMs = performance.now() - started;
  }

  function draw() {
    const next = shown.slice(drawn, drawn + PAGE);
    list.append.apply(list, next.map(element));
    drawn += next.length;
    more.hidden = drawn >= shown.length;
    document.getElementById("count").textContent = shown.length
      ? shown.length + " of " + data.rows.length + " replies" + (drawn < shown.length ? ", the first " + drawn + " shown" : "")
      : "No reply fits these filters.";
  }

  function make(tag, name, text) {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function element(i) {
    const row = data.rows[i];
    const node = make("article", "reply");
    node.dataset.index = i;
    const told = make("div", "told");
    data.contexts[row.c].forEach(function (turn, number) {
      const line = make("p", "turn");
      line.append(make("b", "", number % 2 ? "A:" : "U:"), turn);
      told.append(line);
    });
    const answer = make("p", "answer");
    answer.append(make("b", "", "A:"), row.r || "(empty)");
    told.append(answer);
    if (row.f) {
      const reference = make("p", "reference");
      reference.append(make("b", "", "Reference: "), row.f);
      told.append(reference);
    }
    node.append(told, classified(i));
    return node;
  }

  function classified(i) {
    const row = data.rows[i], side = make("ul", "predicted");
    data.attributes.forEach(function (attribute, k) {
      const wanted = row.t[k], predicted = row.h[k];
      if (wanted < 0 && !predicted) return;
      const state = right[k][i];
      const item = make("li", state === 1 ? "right" : state === 0 ? "wrong" : "");
      item.title = attribute[0];
      item.append(make("span", "mark", state === 1 ? "✓ " : state === 0 ? "✗ " : "· "));
      item.append(make("b", "", wanted < 0 ? "(any)" : attribute[1][wanted]));
      item.append(make("span", "detail", predictedText(attribute[1], wanted, predicted)));
      side.append(item);
    });
    const coherence = make("li", "coherence");
    coherence.append("coherence ", make("b", "", row.n === null ? "–" : row.n.toFixed(2)));
    if (!Number.isNaN(numbers.probability[i])) coherence.append(", joint probability ", make("b", "", numbers.probability[i].toFixed(2)));
    side.append(coherence);
    return side;
  }

  function predictedText(aspects, wanted, predicted) {
    if (!predicted) return ": not classified";
    const probability = predicted[1] === null ? "" : " " + predicted[1].toFixed(2);
    return predicted[0] === wanted ? ": predicted" + probability : ": predicted " + aspects[predicted[0]] + probability;
  }

  form.addEventListener("input", update);
  form.addEventListener("reset", function () { setTimeout(update); });  // the fields are empty only after the event
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  more.addEventListener("click", draw);
  update();
})();
