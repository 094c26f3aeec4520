// Compares a plot as SVG with the same as PNG, drawn by this browser: the largest difference of the mean ink of a cell,
// among cells with text, which two programs draw with other edges, and among those without.
const [svg, png, done] = arguments;
const CELL = 20;

const load = (address) => new Promise((loaded, failed) => {
  const image = new Image();
  image.onload = () => loaded(image);
  image.onerror = () => failed(new Error("no picture"));
  image.src = address;
});

const pixels = (image, width, height) => {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
};

// Boxes around the texts of the SVG, with some room.
const texts = () => {
  const page = document.createElement("div");
  page.style = "position: absolute; left: 0; top: 0";
  page.innerHTML = svg;
  document.body.append(page);
  const from = page.firstChild.getBoundingClientRect();
  const boxes = [...page.querySelectorAll("text")].map((text) => text.getBoundingClientRect());
  page.remove();
  const room = 4;
  return boxes.map((box) => [box.left - from.left - room, box.top - from.top - room, box.right - from.left + room, box.bottom - from.top + room]);
};

const compare = async () => {
  const raster = await load(`data:image/png;base64,${png}`);
  const { width, height } = raster;
  const vector = pixels(await load(`data:image/svg+xml,${encodeURIComponent(svg)}`), width, height);
  const rastered = pixels(raster, width, height);
  const boxes = texts();
  const worst = { text: 0, drawing: 0, width, height, texts: boxes.length };
  for (let y = 0; y + CELL <= height; y += CELL) {
    for (let x = 0; x + CELL <= width; x += CELL) {
      let difference = 0;
      for (let channel = 0; channel < 3; channel += 1) {
        let sum = 0;
        for (let at = 0; at < CELL * CELL; at += 1) {
          const place = ((y + Math.floor(at / CELL)) * width + x + (at % CELL)) * 4 + channel;
          sum += vector[place] - rastered[place];
        }
        difference = Math.max(difference, Math.abs(sum) / (CELL * CELL * 255));
      }
      const hasText = boxes.some(([left, top, right, bottom]) => left < x + CELL && right > x && top < y + CELL && bottom > y);
      const kind = hasText ? "text" : "drawing";
      worst[kind] = Math.max(worst[kind], difference);
    }
  }
  return worst;
};

compare().then(done, (error) => done({ error: String(error) }));
