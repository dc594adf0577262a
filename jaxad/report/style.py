"""The style sheet of report.html: light and dark, wide and narrow; blue and orange suit any colour vision."""

STYLE = """
:root { color-scheme: light dark;
  --page: #fafaf8; --surface: #ffffff; --text: #1d2126; --muted: #59616b; --line: #dddfdd; --grid: #e9eae7;
  --normal: #0072b2; --anomalous: #c04a00;
  --wrong-text: #8a2b00; --wrong-back: #fdebe0; --right-text: #0b5345; --right-back: #e3f3ee; }
@media (prefers-color-scheme: dark) { :root {
  --page: #15181b; --surface: #1d2125; --text: #e7e9ea; --muted: #a5adb5; --line: #363c42; --grid: #2b3035;
  --normal: #56b4e9; --anomalous: #f2934a;
  --wrong-text: #ffc29b; --wrong-back: #47280f; --right-text: #9fe0cb; --right-back: #14372e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main, header, footer { max-width: 1240px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
footer { padding-top: 48px; padding-bottom: 48px; }
h1, h2, h3 { font-weight: 650; overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 1.4rem; margin: 56px 0 12px; }
header + main > section:first-child h2 { margin-top: 32px; }
h3 { font-size: 1.05rem; margin: 36px 0 4px; }
h4 { font-size: 0.9375rem; margin: 24px 0 0; }
p { margin: 4px 0 12px; }
.muted, figcaption, caption, .notes { color: var(--muted); font-size: 0.875rem; }
.notes { margin: 10px 0 0; padding-left: 18px; }
a { color: inherit; text-underline-offset: 3px; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 14px 0 0; }
nav li { overflow-wrap: anywhere; }
:focus-visible { outline: 2px solid var(--normal); outline-offset: 2px; }

.scroll { overflow-x: auto; background: var(--surface); border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 12px 16px 4px; }
th, td { padding: 7px 16px; text-align: right; white-space: nowrap; border-top: 1px solid var(--grid); }
thead th { border-top: 0; font-size: 0.8125rem; color: var(--muted); font-weight: 600; }
th:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 9em; font-weight: 500; }
tr.mean th, tr.mean td { border-top: 2px solid var(--line); font-weight: 650; }
td small { color: var(--muted); font-weight: 400; font-size: 0.85em; display: inline-block; min-width: 3.4em; }
table.words td, table.words thead th { text-align: left; white-space: normal; overflow-wrap: anywhere; }

.facts { display: flex; flex-wrap: wrap; gap: 8px 40px; margin: 0 0 18px; }
.facts dt { color: var(--muted); font-size: 0.8125rem; }
.facts dd { margin: 0; font-size: 1.2rem; line-height: 1.35; font-variant-numeric: tabular-nums; }
.facts small { font-size: 0.8125rem; color: var(--muted); }

figure { margin: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(270px, 100%), 1fr)); gap: 16px; }
.chart, .card { background: var(--surface); border: 1px solid var(--line); border-radius: 8px; padding: 12px; }
.chart h3 { margin: 0 0 8px; font-size: 0.9375rem; }
.chart svg { display: block; width: 100%; height: auto; max-width: 400px; margin: 0 auto; }
svg text { fill: var(--muted); font-size: 11px; font-variant-numeric: tabular-nums; }
svg text.strong { fill: var(--text); font-weight: 600; }
svg path { fill: none; }
.grid { stroke: var(--grid); }
.axis { stroke: var(--muted); }
.chance { stroke: var(--muted); stroke-dasharray: 1 4; stroke-linecap: round; }
.curve { stroke-width: 2; stroke-linejoin: round; }
.curve.image { stroke: var(--normal); }
.curve.pixel { stroke: var(--anomalous); stroke-dasharray: 6 3; }
svg .bar.normal { fill: var(--normal); }
svg .bar.anomalous { fill: var(--anomalous); }
.threshold { stroke: var(--text); stroke-width: 1.5; stroke-dasharray: 5 3; }
.chart figcaption { display: flex; flex-wrap: wrap; gap: 2px 14px; margin-top: 6px; }
.key { display: inline-flex; align-items: center; gap: 6px; }
.key svg { width: 26px; height: 10px; flex: none; margin: 0; }

.cards { display: grid; gap: 16px; margin-top: 10px;
  grid-template-columns: repeat(auto-fill, minmax(min(480px, 100%), 1fr)); }
.pictures { display: grid; grid-template-columns: repeat(3, 1fr); gap: 5px; align-items: start; }
.pictures img { display: block; width: 100%; height: auto; border-radius: 4px; }
.card figcaption { margin-top: 8px; display: flex; flex-wrap: wrap; gap: 2px 14px; align-items: baseline; }
.card .name { color: var(--text); flex-basis: 100%; overflow-wrap: anywhere; font-weight: 500; }
.card .score { font-variant-numeric: tabular-nums; }
.verdict { border-radius: 4px; padding: 0 7px; font-weight: 600; }
.verdict.wrong { color: var(--wrong-text); background: var(--wrong-back); }
.verdict.right { color: var(--right-text); background: var(--right-back); }
.legend { display: flex; flex-wrap: wrap; align-items: center; gap: 4px 10px; margin: 4px 0; }
.ramp { display: inline-block; width: 160px; height: 12px; border-radius: 3px; border: 1px solid var(--line); }
.outlined { display: inline-block; width: 22px; height: 16px; border: 2px solid #00e5ff; border-radius: 2px;
  box-shadow: 0 0 0 1px #1d2126; background: #8a8f94; }

pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; padding: 12px 16px;
  font: 0.8125rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
details { margin-top: 16px; }
summary { cursor: pointer; font-weight: 600; width: fit-content; }
details .scroll { margin-top: 8px; }
@media (max-width: 560px) {
  main, header, footer { padding-left: 14px; padding-right: 14px; }
  header { padding-top: 24px; }
  h1 { font-size: 1.5rem; }
  th, td { padding: 6px 10px; }
  .facts { gap: 8px 24px; } }
@media print { .card, .chart { break-inside: avoid; } }
"""
