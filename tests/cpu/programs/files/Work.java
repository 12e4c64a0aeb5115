// SPDX-License-Identifier: GPL-2.0-or-later
// Numbers, strings, collections, exceptions, threads and locks: results that do not depend on how they were compiled.
import java.math.BigInteger;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.util.stream.*;

public class Work {
    static int seed;
    static int next() { seed = seed * 1103515245 + 12345; return seed >>> 1; }

    static long numbers() {
        long h = 1;
        for (int i = 1; i < 400000; i++) {
            h = h * 6364136223846793005L + i;
            h ^= Long.rotateLeft(h, 17) + (h % i) + (h >>> (i & 63)) + Long.bitCount(h) + Integer.reverse(i) + Math.floorMod((int) h, i);
        }
        return h;
    }
    static long floats() {
        double s = 0;
        float f = 1;
        long h = 0;
        for (int i = 1; i < 100000; i++) {
            s += StrictMath.sin(i) / i + Math.sqrt(i) + StrictMath.pow(i, 0.3) + (i % 7.7) + Math.fma(i, 0.5, s * 1e-9);
            f = f * 1.0001f + i / 3.0f - (int) (f * 0.25f);
            h = h * 31 + Double.doubleToLongBits(s) + Float.floatToIntBits(f) + (long) s + (int) (s * 1e7) + Math.round(f);
        }
        return h;
    }
    static long arrays() {
        int[] a = new int[50000];
        byte[] b = new byte[65536];
        for (int i = 0; i < a.length; i++) { a[i] = next(); }
        for (int i = 0; i < b.length; i++) { b[i] = (byte) (a[i % a.length] * 7 + (b[(i * 31) & 0xfff] ^ i)); }
        int[] c = a.clone();
        Arrays.sort(c);
        Arrays.parallelSort(a);
        long h = Arrays.equals(a, c) ? 1 : 2;
        for (int i = 0; i < a.length; i++) { h = h * 31 + a[i]; c[i] = a[i] * 3 + (c[i] >> 2) - (a[i] & 0xff); }
        System.arraycopy(b, 0, b, 13, 60000);
        return h * 31 + Arrays.hashCode(c) + Arrays.hashCode(b) + Arrays.mismatch(a, c);
    }
    static long strings() {
        StringBuilder text = new StringBuilder();
        for (int i = 0; i < 20000; i++) { text.append(Integer.toString(next() % 46656, 36)).append(i % 5 == 0 ? "\u00e9\u4e2d" : " "); }
        String s = text.toString();
        Map<String, Integer> count = new TreeMap<>();
        for (String w : s.split("\\s+")) { count.merge(w, 1, Integer::sum); }
        return s.hashCode() * 31L + count.hashCode() + s.replaceAll("([a-f])([0-9])", "$2$1").toUpperCase().hashCode()
            + s.indexOf("zz") + s.chars().filter(Character::isDigit).count() + String.format("%.7f %x %s", 1 / 3.0, s.length(), count.size()).hashCode();
    }
    interface Shape { double area(); }
    record Circle(double r) implements Shape { public double area() { return r * r * 3; } }
    record Square(double a) implements Shape { public double area() { return a * a; } }
    record Strip(double a, double b) implements Shape { public double area() { return a * b; } }
    static long shapes() {
        double sum = 0;
        for (int kinds = 1; kinds <= 3; kinds++) {
            Shape[] all = new Shape[3000];
            for (int i = 0; i < all.length; i++) { all[i] = i % kinds == 0 ? new Circle(i) : i % kinds == 1 ? new Square(i) : new Strip(i, 2); }
            for (int round = 0; round < 30; round++) { for (Shape x : all) { sum += x.area(); } }
        }
        return Double.doubleToLongBits(sum);
    }
    static int depth(int n) { return n == 0 ? Integer.parseInt("x") : depth(n - 1) + 1; }
    static int endless(int n) { return endless(n + 1) + 1; }
    static long exceptions() {
        long n = 0;
        int[] small = new int[10];
        Object o = "text";
        for (int i = 0; i < 20000; i++) {
            try {
                switch (i % 5) {
                case 0: n += small[i % 20]; break;
                case 1: n += 100 / (i % 3); break;
                case 2: n += ((i % 4 == 0) ? (String) null : "abc").length(); break;
                case 3: n += ((Integer) (i % 6 == 0 ? (Object) i : o)); break;
                default: n += depth(i % 30);
                }
            } catch (ArithmeticException e) { n += 3; } catch (NullPointerException e) { n += 5; } catch (ClassCastException e) { n += 7; }
            catch (NumberFormatException e) { n += 11; } catch (ArrayIndexOutOfBoundsException e) { n += 13; }
        }
        for (int i = 0; i < 3; i++) { try { endless(0); } catch (StackOverflowError e) { n += 17; } }
        return n;
    }
    static long big() {
        BigInteger a = BigInteger.ONE;
        for (int i = 2; i < 800; i++) { a = a.multiply(BigInteger.valueOf(i)); }
        BigInteger p = BigInteger.TWO.pow(1279).subtract(BigInteger.ONE);
        return a.hashCode() + BigInteger.valueOf(3).modPow(a.shiftRight(5000), p).hashCode() * 31L + (p.isProbablePrime(10) ? 1 : 0) + a.sqrt().hashCode();
    }
    static long garbage() {
        Object[] keep = new Object[500];
        long h = 0;
        for (int i = 0; i < 400000; i++) {
            Object[] o = { keep[i % 500], new byte[i % 200], Integer.toString(i) };
            keep[i % 500] = i % 11 == 0 ? null : o;
        }
        for (Object k : keep) { for (Object[] o = (Object[]) k; o != null; o = (Object[]) o[0]) { h = h * 31 + ((byte[]) o[1]).length + o[2].hashCode(); } }
        return h;
    }
    static long threads() throws Exception {
        AtomicLong total = new AtomicLong();
        LongAdder adder = new LongAdder();
        int[] plain = { 0 };
        ConcurrentHashMap<Integer, Integer> map = new ConcurrentHashMap<>();
        ArrayBlockingQueue<Integer> queue = new ArrayBlockingQueue<>(16);
        ExecutorService pool = Executors.newFixedThreadPool(4);
        List<Future<Long>> results = new ArrayList<>();
        for (int k = 0; k < 4; k++) {
            final int id = k;
            results.add(pool.submit(() -> {
                long s = 0;
                for (int i = 0; i < 20000; i++) {
                    total.addAndGet(i);
                    adder.increment();
                    synchronized (plain) { plain[0]++; }
                    map.merge(i % 97, 1, Integer::sum);
                    if (id % 2 == 0) { queue.put(i); } else { s += queue.take(); }
                }
                return s;
            }));
        }
        long s = 0;
        for (Future<Long> f : results) { s += f.get(); }
        pool.shutdown();
        return s + total.get() * 3 + adder.sum() * 5 + plain[0] * 7L + map.hashCode() + IntStream.range(0, 200000).parallel().mapToLong(i -> (long) i * i % 1013).sum();
    }
    public static void main(String[] arguments) throws Exception {
        for (int round = 0; round < 2; round++) {
            seed = 12345;
            System.out.println(numbers() + " " + floats() + " " + arrays() + " " + strings() + " " + shapes() + " " + exceptions() + " " + big() + " " + garbage() + " " + threads());
        }
    }
}
