"use strict";
// Charts as SVG, in the pixels of the box that they are drawn into, so that text keeps its size.
const charts = (() => {
  const element = (tag, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const number = (value) => (value === null ? "–" : value.toFixed(3));

  // The one tooltip

  const tip = document.getElementById("tip");
  function show(text, x, y) {
    tip.textContent = text;
    tip.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = tip;
    tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - width - 8))}px`;
    tip.style.top = `${y - height - 12 < 8 ? y + 18 : y - height - 12}px`;
  }
  const hide = () => { tip.hidden = true; };
  function explain(part, text) {
    part.addEventListener("pointermove", (event) => show(text, event.clientX, event.clientY));
    part.addEventListener("pointerleave", hide);
  }
  addEventListener("scroll", hide, { passive: true, capture: true });

  // Axes

  const margin = { left: 46, right: 14, top: 10, bottom: 40 };

  function steps(from, to, count) {
    const rough = (to - from) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
    const ticks = [];
    for (let n = Math.ceil(from / step - 1e-9); n * step <= to + step * 1e-9; n++) ticks.push(n * step);
    return ticks;
  }

  // An empty plot: the svg, and scales x and y from values to pixels.
  function plot(box, { height, x, y, xLabel, yLabel, label, xTicks, yTicks }) {
    const width = Math.max(box.clientWidth, 240);
    const scale = ([from, to], start, end) =>
      (value) => start + ((value - from) / (to - from)) * (end - start);
    const X = scale(x, margin.left, width - margin.right);
    const Y = scale(y, height - margin.bottom, margin.top);
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
      "aria-label": label });
    for (const tick of xTicks || steps(...x, width > 420 ? 5 : 4)) {
      svg.append(element("path", { class: "grid", d: `M${X(tick)} ${margin.top}V${Y(y[0])}` }),
        element("text", { class: "tick", x: X(tick), y: height - margin.bottom + 16,
          "text-anchor": "middle" }, String(Number(tick.toFixed(6)))));
    }
    for (const tick of yTicks || steps(...y, height > 200 ? 5 : 3)) {
      const at = yTicks ? Y(Math.log10(tick)) : Y(tick);
      svg.append(element("path", { class: "grid", d: `M${X(x[0])} ${at}H${width - margin.right}` }),
        element("text", { class: "tick", x: margin.left - 7, y: at + 4, "text-anchor": "end" },
          yTicks ? tick.toLocaleString("en") : String(Number(tick.toFixed(6)))));
    }
    svg.append(
      element("text", { class: "tick", x: (X(x[0]) + X(x[1])) / 2, y: height - 6,
        "text-anchor": "middle" }, xLabel),
      element("text", { class: "tick", "text-anchor": "middle",
        transform: `translate(11 ${(Y(y[0]) + Y(y[1])) / 2}) rotate(-90)` }, yLabel));
    box.append(svg);
    return { svg, X, Y, width };
  }
  const path = (xs, ys, X, Y) => xs.map((x, i) => `${i ? "L" : "M"}${X(x).toFixed(1)} ${Y(ys[i]).toFixed(1)}`).join("");

  // Precision against recall

  function curves(box, data, chosen, choose) {
    box.replaceChildren();
    const { svg, X, Y, width } = plot(box, {
      height: Math.min(400, Math.max(300, box.clientWidth * 0.8)), x: [0, 1], y: [0, 1],
      xLabel: "recall", yLabel: "precision",
      label: "Precision against recall, a curve for each class" });
    const one = chosen >= 0;
    const known = Object.keys(data.curves).map(Number);
    const baseline = one ? data.shares[chosen]
      : known.reduce((sum, c) => sum + data.shares[c], 0) / known.length;
    for (const c of known) {
      if (c === chosen) continue;
      const d = path(...data.curves[c], X, Y);
      const line = element("path", { class: one ? "curve faint" : "curve", d });
      const target = element("path", { class: "target", d, "data-class": c });
      explain(target, `${data.classes[c]}: ${data.sentences[c]}`);
      target.addEventListener("pointerenter", () => line.classList.add("near"));
      target.addEventListener("pointerleave", () => line.classList.remove("near"));
      target.addEventListener("click", () => { hide(); choose(c); });
      svg.append(element("g", {}, line, target));
    }
    if (!one) {
      const grid = data.meanCurve.map((_, i) => i / (data.meanCurve.length - 1));
      svg.append(element("path", { class: "mean", d: path(grid, data.meanCurve, X, Y) }));
    } else if (data.curves[chosen]) {
      svg.append(element("path", { class: "curve chosen", d: path(...data.curves[chosen], X, Y) }));
      const [recall, precision] = data.points[chosen];
      if (recall !== null && precision !== null) {
        const dot = element("circle", { class: "dot", cx: X(recall), cy: Y(precision), r: 6 });
        explain(dot, `at the threshold: precision ${number(precision)}, recall ${number(recall)}`);
        svg.append(dot);
      }
    }
    svg.append(
      element("path", { class: "baseline", d: `M${X(0)} ${Y(baseline)}H${X(1)}` }),
      element("text", { class: "tick end", x: width - margin.right - 4,
        y: Y(baseline) + (baseline > 0.5 ? 15 : -5), "text-anchor": "end" },
      `guessing ${number(baseline)}`));
  }

  // Calibration

  // Wilson's interval of a share; the decisions of one class are of different images.
  function wilson(share, count) {
    const z = 1.96, n = count + z * z;
    const middle = (share * count + z * z / 2) / n;
    const half = z / n * Math.sqrt(share * (1 - share) * count + z * z / 4);
    return [middle - half, middle + half];
  }

  function calibration(box, data, chosen) {
    box.replaceChildren();
    const { all, classes } = data.calibration;
    // Drawing the images anew says nothing of a bin whose few labels are all the same.
    const rows = (classes[chosen] || all).map(([count, p, share, low = 1, high = 0]) => {
      const [lowest, highest] = wilson(share, count);
      return [count, p, share, Math.min(low, lowest), Math.max(high, highest)];
    });
    const { svg, X, Y } = plot(box, { height: Math.min(360, Math.max(270, box.clientWidth * 0.7)),
      x: [0, 1], y: [0, 1], xLabel: "probability", yLabel: "share that is present",
      label: "Calibration: share of present labels against probability" });
    svg.append(element("path", { class: "baseline", d: `M${X(0)} ${Y(0)}L${X(1)} ${Y(1)}` }));
    if (classes[chosen]) {
      svg.append(element("path", { class: "curve",
        d: path(all.map((row) => row[1]), all.map((row) => row[2]), X, Y) }));
    }
    svg.append(element("path", { class: "curve chosen",
      d: path(rows.map((row) => row[1]), rows.map((row) => row[2]), X, Y) }));
    const most = Math.max(...rows.map(([count]) => count));
    const powers = steps(0, Math.max(1, Math.ceil(Math.log10(most))), 3).map((n) => 10 ** n);
    const bars = plot(box, { height: 130, x: [0, 1], y: [-0.3, Math.log10(powers[powers.length - 1])],
      xLabel: "probability", yLabel: "decisions", yTicks: powers, label: "Decisions per bin" });
    for (const [count, p, share, low, high] of rows) {
      const text = `${count.toLocaleString("en")} decisions of mean probability ${number(p)}: `
        + `${number(share)} present (95 %: ${number(low)} to ${number(high)})`;
      const [x, y] = [X(p), Y(share)];
      const mark = element("g", {},
        element("path", { class: "whisker", d: `M${x} ${Y(low)}V${Y(high)}` }),
        element("circle", { class: "dot", cx: x, cy: y, r: 4.5 }),
        element("circle", { class: "target", cx: x, cy: y, r: 12 }));
      explain(mark, text);
      svg.append(mark);
      const bin = Math.min(14, Math.max(0, Math.ceil(p * 15) - 1));
      const [left, right] = [bars.X(bin / 15), bars.X((bin + 1) / 15)];
      const top = bars.Y(Math.log10(count));
      const bar = element("rect", { class: "bar-second", x: left + 1.5, y: top,
        width: right - left - 3, height: bars.Y(-0.3) - top });
      explain(bar, text);
      bars.svg.append(bar);
    }
  }

  // Training

  function history(box, rows, metric) {
    const series = ["train", "val"].map((side) => rows.filter((row) => `${side}-${metric}` in row)
      .map((row) => [row.epoch, row[`${side}-${metric}`]]));
    const values = series.flat().map(([, value]) => value);
    if (!values.length) return;
    const epochs = rows.map((row) => row.epoch);
    const top = metric === "loss" ? Math.max(...values) * 1.05
      : Math.min(1, Math.ceil(Math.max(...values) * 10 + 0.2) / 10);
    box.replaceChildren();
    const whole = steps(Math.min(...epochs), Math.max(...epochs), 6).filter(Number.isInteger);
    const { svg, X, Y } = plot(box, { height: 240, x: [Math.min(...epochs), Math.max(...epochs)],
      y: [0, top], xLabel: "epoch", yLabel: metric, xTicks: whole,
      label: `${metric} over the epochs` });
    if (epochs[0] === 0) {  // the warm head: fine-tuning begins after it, and may first lose
      const middle = (X(0) + X(Math.min(1, epochs[epochs.length - 1]))) / 2;
      svg.append(element("path", { class: "baseline", d: `M${middle} ${Y(0)}V${Y(top)}` }),
        element("text", { class: "tick", x: middle + 5, y: Y(0) - 6 }, "fine-tuning from here"));
    }
    series.forEach((points, side) => {
      if (!points.length) return;
      const name = side ? "validation" : "training";
      svg.append(element("path", { class: side ? "curve chosen" : "curve second",
        d: path(...[0, 1].map((i) => points.map((point) => point[i])), X, Y) }));
      for (const [epoch, value] of points) {
        const dot = element("circle", { class: side ? "dot" : "dot second", cx: X(epoch),
          cy: Y(value), r: 4.5 });
        explain(dot, `${name}, ${epoch ? `epoch ${epoch}` : "new classifier alone"}: ${metric} ${number(value)}`);
        svg.append(dot);
      }
    });
  }

  return { curves, calibration, history, number };
})();
