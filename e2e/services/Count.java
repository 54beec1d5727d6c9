import java.io.IOException;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.Random;
import java.util.concurrent.atomic.AtomicLong;

/** A JVM with a busy heap: each client gets one line, `COUNT CHECKSUM`; the count rises, the checksum stays. */
public final class Count {
  public static void main(String[] arguments) throws Exception {
    byte[][] heap = new byte[64][];
    for (int block = 0; block < heap.length; block++) {
      heap[block] = new byte[1 << 20];
      new Random(block).nextBytes(heap[block]);
    }
    AtomicLong count = new AtomicLong();
    for (int thread = 0; thread < 8; thread++) {
      Thread counting = new Thread(() -> {
        while (true) {
          count.incrementAndGet();
          try {
            Thread.sleep(1);
          } catch (InterruptedException interruption) {
            return;
          }
        }
      });
      counting.setDaemon(true);
      counting.start();
    }
    try (ServerSocket server = new ServerSocket(7100)) {
      System.out.println("ready");
      while (true) {
        try (Socket client = server.accept()) {
          long checksum = 0;
          for (byte[] block : heap) {
            for (byte value : block) {
              checksum = checksum * 31 + value;
            }
          }
          client.getOutputStream().write((count.get() + " " + checksum + "\n").getBytes());
        } catch (IOException cutConnection) {
          // the client went away
        }
      }
    }
  }
}
