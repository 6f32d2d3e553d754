// Reads rows as the model beside this file does, and answers with it through onnxruntime-web. Luthier wrote this file.
//
//   const model = await Luthier.load("");            // the folder with model.onnx and model.json
//   await model.predict([{age: 41, city: "Bonn"}]);  // [{prediction: "yes", probabilities: {no: 0.2, yes: 0.8}}]
"use strict";

const Luthier = (() => {
  const NO_DATE = -(2n ** 63n);
  const NUMBER = /^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$/;
  const SPACE = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/;
  const WORD = /[\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\u200c\u200d]/u;

  // A regular expression of Python's as one of JavaScript's, for a whole text.
  const expression = (pattern) => {
    const inner = pattern.replace(/^\^|\$$/g, "").replaceAll("(?P<", "(?<").replaceAll("[^\\W\\d_]", "\\p{L}");
    return new RegExp(`^(?:${inner.replace(/\\([- ,:;'"#&~%@!€$])/g, (all, c) => (c === "$" ? all : c))})$`, "u");
  };

  const isMissing = (cell, column) =>
    cell === null || cell === undefined || Number.isNaN(cell) ||
    (typeof cell === "string" && column.missing_words.includes(cell.trim().toLowerCase()));

  const textOf = (cell) => String(cell).trim();

  function readTexts(cells, column) {
    const known = new Set(column.categories);
    const words = cells.map((cell) => {
      const word = isMissing(cell, column) ? "" : textOf(cell);
      if (column.kind === "boolean") return word.toLowerCase();
      return known.has(word) || !NUMBER.test(word) ? word : textOf(Number(word));
    });
    return [new ort.Tensor("string", words, [cells.length, 1])];
  }

  const readNumbers = (cells, column) =>
    [new ort.Tensor("float64", Float64Array.from(cells, (cell) => numberOf(cell, column)), [cells.length, 1])];

  function numberOf(cell, column) {
    if (isMissing(cell, column)) return NaN;
    if (typeof cell !== "string") return Number(cell);
    let text = cell.trim();
    if (column.decimal_comma && !text.includes(".")) text = text.replace(",", ".");
    const part = column.pattern ? text.match(expression(column.pattern))?.groups : undefined;
    if (part) {
      const body = column.thousands ? part.body.replace(new RegExp(column.thousands, "gu"), "") : part.body;
      const sign = (part.sign ?? "") + (part.sign2 ?? "");
      const signs = [Boolean(part.open), Boolean(sign), part.close === "-"];
      if (signs[0] === (part.close === ")") && signs.filter(Boolean).length <= 1) {
        const scale = column.scales[(part.scale ?? "").toLowerCase()] ?? 1;
        const number = Number(body.replace(column.decimal, ".")) * scale;
        return signs[0] || signs[2] || sign === "-" ? -number : number;
      }
    }
    const infinite = /^([+-]?)inf(inity)?$/i.exec(text);
    if (infinite) return infinite[1] === "-" ? -Infinity : Infinity;
    if (!NUMBER.test(text)) throw new Error(`column ${column.name} takes numbers, and this is ${cell}`);
    return Number(text);
  }

  const readDates = (cells, column) => {
    const times = cells.map((cell) => (isMissing(cell, column) ? NO_DATE : microseconds(cell, column)));
    return [new ort.Tensor("int64", BigInt64Array.from(times), [cells.length, 1])];
  };

  function microseconds(cell, column) {
    if (cell instanceof Date) return BigInt(cell.getTime()) * 1000n;
    for (const pattern of column.patterns) {
      const part = textOf(cell).match(expression(pattern))?.groups;
      const seconds = part ? secondsOf(part, column) : undefined;
      if (seconds !== undefined) return BigInt(Math.round(seconds * 1e6));
    }
    throw new Error(`column ${column.name} takes dates like ${column.format}, and this is ${cell}`);
  }

  // Days since 1970, or undefined where there is no such day.
  function dayOf(year, month, day) {
    const date = new Date(0);
    date.setUTCFullYear(year, month - 1, day);
    const isThere = date.getUTCFullYear() === year && date.getUTCMonth() === month - 1 && date.getUTCDate() === day;
    return isThere && year >= 1 ? date.getTime() / 864e5 : undefined;
  }

  function secondsOf(part, column) {
    let year = Number(part.year ?? 1970);
    if (part.year2) year = Number(part.year2) + (Number(part.year2) < 30 ? 2000 : 1900);
    let month = part.month ?? "1";
    month = /^[0-9]+$/.test(month) ? Number(month) : column.months?.[month.toLowerCase()] ?? 0;
    if (part.quarter) month = 3 * Number(part.quarter) - 2;
    let day = dayOf(year, month, Number(part.day ?? 1));
    if (day === undefined) return undefined;
    if (part.week) { // week 1 holds 4 January, and begins on a Monday
      const fourth = dayOf(year, 1, 4);
      day = fourth - ((fourth + 3) % 7) + 7 * (Number(part.week) - 1) + Number(part.weekday ?? 1) - 1;
    }
    if (part.yearday) day += Number(part.yearday) - 1;
    let hour = Number(part.hour ?? 0);
    const minute = Number(part.minute ?? 0), second = Number((part.second ?? "0").replace(",", "."));
    const half = (part.half ?? " ")[0].toLowerCase();
    if (half === "p" && hour < 12) hour += 12;
    if (half === "a" && hour === 12) hour = 0;
    if (hour >= 24 || minute >= 60 || second >= 61) return undefined;
    const zone = (column.zones[part.zone ?? ""] ?? part.zone ?? "").match(/([+-])([0-9]{2}):?([0-9]{2})?/);
    const offset = zone ? (zone[1] === "-" ? -1 : 1) * (Number(zone[2]) * 3600 + Number(zone[3] ?? 0) * 60) : 0;
    return day * 86400 + hour * 3600 + minute * 60 + second - offset;
  }

  const stepsOf = (cell, column) => {
    if (typeof cell !== "string") return (cell ?? []).map((step) => numberOf(step, column));
    if (isMissing(cell, column)) return [];
    const parts = cell.replace(/^[[\](){}\s]+|[[\](){}\s]+$/g, "").split(/\s*[,;]\s*|\s+/);
    return parts.filter((step) => step !== "").map((step) => numberOf(step, column));
  };

  function seriesTensor(rows, longest) {
    const found = new Float64Array(rows.length * longest).fill(NaN);
    rows.forEach((row, i) => found.set(row, i * longest));
    return new ort.Tensor("float64", found, [rows.length, longest]);
  }

  function readText(cells, column) {
    const texts = cells.map((cell) => (isMissing(cell, column) ? "" : textOf(cell)));
    const [tokens, characters] = column.inputs;
    const ids = new BigInt64Array(texts.length * tokens.shape[1]);
    const own = (word) => (Object.hasOwn(column.vocabulary, word) ? column.vocabulary[word] : 1);
    texts.forEach((text, i) => {
      wordsOf(text, column).slice(0, column.max_tokens)
        .forEach((word, j) => { ids[i * tokens.shape[1] + j] = BigInt(own(word)); });
    });
    const found = [new ort.Tensor("int64", ids, [texts.length, tokens.shape[1]])];
    if (characters) {
      const codes = new Int32Array(texts.length * characters.shape[1]);
      texts.forEach((text, i) => {
        const words = text.normalize("NFKC").toLowerCase().split(new RegExp(`${SPACE.source}+`)).filter(Boolean);
        const read = words.length ? [...` ${words.join(" ")} `].slice(0, column.max_characters) : [];
        read.forEach((char, j) => { codes[i * characters.shape[1] + j] = char.codePointAt(0); });
      });
      found.push(new ort.Tensor("int32", codes, [texts.length, characters.shape[1]]));
    }
    return found;
  }

  function wordsOf(text, column) {
    const chars = [...[...text.normalize("NFKC")].map((char) => char.toLowerCase()).join("")];
    if (column.is_spaceless) return chars.filter((char) => !SPACE.test(char));
    const found = [];
    let before = " ";
    for (const char of chars) {
      const kind = SPACE.test(char) ? " " : WORD.test(char) ? "w" : ".";
      if (kind !== " " && kind === before) found[found.length - 1] += char;
      else if (kind !== " ") found.push(char);
      before = kind;
    }
    return found;
  }

  // Images: {data, height, width} with the bytes of height x width x channels; or a Blob, decoded by the browser.
  async function readImages(cells, column) {
    const [given] = column.inputs, channels = given.shape[3];
    const images = await Promise.all(cells.map((cell) => (cell.arrayBuffer ? pixelsOf(cell, channels) : cell)));
    const { height, width } = images[0];
    if (images.some((image) => image.height !== height || image.width !== width))
      throw new Error("the images of one call have different sizes: give those of each size by themselves");
    const made = given.type === "uint8" ? new Uint8Array(images.length * height * width * channels)
      : new Float32Array(images.length * height * width * channels);
    images.forEach((image, i) => made.set(image.data, i * height * width * channels));
    return [new ort.Tensor(given.type === "uint8" ? "uint8" : "float32", made, [images.length, height, width, channels])];
  }

  async function pixelsOf(file, channels) {
    const bitmap = await createImageBitmap(file);
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height), draw = canvas.getContext("2d");
    draw.fillStyle = "white";
    draw.fillRect(0, 0, bitmap.width, bitmap.height);
    draw.drawImage(bitmap, 0, 0);
    const rgba = draw.getImageData(0, 0, bitmap.width, bitmap.height).data;
    const data = new Uint8Array(bitmap.width * bitmap.height * channels);
    for (let i = 0; i < rgba.length / 4; i++) {
      const [red, green, blue] = rgba.subarray(4 * i, 4 * i + 3);
      if (channels === 1) data[i] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
      else data.set([red, green, blue], 3 * i);
    }
    return { data, height: bitmap.height, width: bitmap.width };
  }

  async function inputsOf(rows, facts) {
    const found = {}, series = [];
    for (const column of facts.columns) {
      const isWide = column.kind === "series" && column.parts?.length && !rows.some((row) => column.name in row);
      const cells = rows.map((row) => (isWide ? column.parts.map((part) => cellOf(row, part)) : cellOf(row, column.name)));
      if (column.kind === "series") {
        series.push([column.inputs[0].name, cells.map((cell) => stepsOf(cell, column))]);
        continue;
      }
      const made = await READERS[column.kind](cells, column);
      column.inputs.forEach((given, i) => { found[given.name] = made[i]; });
    }
    const longest = Math.max(1, ...series.flatMap(([, steps]) => steps.map((row) => row.length)));
    for (const [name, steps] of series) found[name] = seriesTensor(steps, longest);
    return found;
  }

  function cellOf(row, name) {
    if (!(name in row)) throw new Error(`a row lacks the column ${name}; it has ${Object.keys(row).join(", ")}`);
    return row[name];
  }

  const READERS = {
    number: readNumbers, boolean: readTexts, category: readTexts, date: readDates, text: readText, image: readImages,
  };

  // The answers to rows, one object a row: a value for each output, or an object of them by class or target.
  async function predict(session, facts, rows) {
    const answers = await session.run(await inputsOf(rows, facts));
    return rows.map((_, i) => Object.fromEntries(Object.entries(facts.outputs).map(([name, { columns }]) => {
      const cells = Array.from(answers[name].data.slice(i * columns.length, (i + 1) * columns.length), plain);
      const named = columns.map((column) => (column === name ? column : column.slice(name.length + 1)));
      const isLone = answers[name].dims.length === 1;
      return [name, isLone ? cells[0] : Object.fromEntries(cells.map((cell, j) => [named[j], cell]))];
    })));
  }

  const plain = (value) => (typeof value === "bigint" ? Number(value) : value);

  async function load(folder) {
    const facts = await (await fetch(`${folder}model.json`)).json();
    const session = await ort.InferenceSession.create(`${folder}model.onnx`, { executionProviders: ["wasm"] });
    return { facts, session, predict: (rows) => predict(session, facts, rows) };
  }

  return { load, inputsOf, predict };
})();
