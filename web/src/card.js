/* The card of a model, in the metadata of its ONNX file. */

/* The metadata of an ONNX file: entries {1: key, 2: value} of field 14 of the protobuf message. */
export function readMetadata(bytes) {
  const text = new TextDecoder();
  const fieldsOf = (from, to) => {
    const fields = [];
    let at = from;
    const number = () => {
      let [value, scale] = [0, 1];
      for (;;) {
        const byte = bytes[at++];
        value += (byte & 127) * scale;
        scale *= 128;
        if (!(byte & 128)) return value;
      }
    };
    while (at < to) {
      const key = number();
      const wire = key % 8;
      if (wire === 0) number();
      else {
        const size = wire === 2 ? number() : wire === 1 ? 8 : wire === 5 ? 4 : NaN;
        if (!(at + size <= to)) throw new Error("it is not an ONNX file");
        fields.push([Math.floor(key / 8), at, at + size]);
        at += size;
      }
    }
    return fields;
  };
  const entries = fieldsOf(0, bytes.length).filter(([field]) => field === 14)
    .map(([, from, to]) => fieldsOf(from, to).map(([, a, b]) => text.decode(bytes.subarray(a, b))));
  return Object.fromEntries(entries);
}

/* The card of a detector. */
export function readCard(bytes, name) {
  const remedy = "drop the ONNX file that `muse export` wrote";
  let card;
  try {
    card = JSON.parse(readMetadata(bytes).muse_card);
  } catch {
    throw new Error(`${name}: has no card; ${remedy}.`);
  }
  if (card.kind) {
    throw new Error(`${name}: is a model of the kind '${card.kind}', which this page cannot run; `
      + "use `muse run`.");
  }
  return card;
}
