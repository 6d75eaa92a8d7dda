// Sending a file in parts: what breaks off goes on where the service says it stopped.

import { Problem, request, sendJson } from "./api.js";

const TRIES = 5;

/**
 * Send a file. Resolves to the upload's id.
 * @param tell called with the bytes that have arrived.
 */
export async function sendFile(file, tell, signal) {
  const { body: upload } = await sendJson("POST", "uploads", { filename: file.name, size: file.size });
  let { offset } = upload;
  for (let failures = 0; offset < file.size; ) {
    const part = file.slice(offset, offset + upload.part_size);
    try {
      const answer = await request(`uploads/${upload.id}?offset=${offset}`, { method: "PUT", body: part, signal });
      ({ offset } = await answer.json());
      failures = 0;
      tell(offset);
    } catch (error) {
      const passing = error instanceof Problem && (error.status === 0 || error.status === 409 || error.status >= 429);
      if (!passing || ++failures === TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter ?? failures)));
      ({ offset } = await (await request(`uploads/${upload.id}`, { signal })).json());
    }
  }
  return upload.id;
}
