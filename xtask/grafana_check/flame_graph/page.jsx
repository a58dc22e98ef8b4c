// Draws what is in the page by Grafana's own flame graph, and says which words it drew: on the canvas, and in the table.

// The builds for require(): esbuild gives those for import what some packages export in another form than they expect.
const { createDataFrame, createTheme, FieldType, ThemeContext } = require("@grafana/data");
const { FlameGraph } = require("@grafana/flamegraph");
const { GlobalStyles, PortalContainer } = require("@grafana/ui");
const { createRoot } = require("react-dom/client");

const { unit, columns } = JSON.parse(document.getElementById("input").textContent);
const words = new Set();
const { fillText } = CanvasRenderingContext2D.prototype;
CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
  words.add(text);
  return fillText.call(this, text, ...rest);
};

const fields = Object.entries(columns).map(([name, values]) => (name === "label"
  ? { name, values, type: FieldType.string }
  : { name, values, type: FieldType.number, config: { unit } }));
const theme = createTheme({ colors: { mode: "dark" } });
createRoot(document.getElementById("graph")).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <FlameGraph data={createDataFrame({ fields })} getTheme={() => theme} disableCollapsing={false} />
    <PortalContainer />
  </ThemeContext.Provider>,
);
setInterval(() => {
  const rows = [...document.querySelectorAll('[role="row"]')].map((row) => row.innerText.replaceAll(/\s+/g, " ").trim());
  document.getElementById("said").textContent = encodeURIComponent(JSON.stringify({ canvas: [...words], rows }));
}, 200);
