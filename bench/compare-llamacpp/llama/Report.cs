using System.Text.Json;

/// <summary>A comparison as a table, or as an object of JSON: medians, and the ratio of each round with its spread.</summary>
public static class Report
{
    /// <summary>A number that engines are compared by; a ratio above 1 says that ours is the better.</summary>
    private sealed record Measure(string Key, string Title, bool MoreIsBetter = false);

    private static IEnumerable<Measure> Measures(CompareOptions options) =>
    [
        new("decode", "a token, ms"),
        new("rows 1", "one row, ms"),
        new("rows 5", "five rows, ms"),
        new("rows 8", "eight rows, ms"),
        new("prefill", $"prefill of {options.Prefill}, tokens/s", true),
    ];

    /// <summary>How much better ours is than another in each round.</summary>
    private static double[] Ratios(Comparison of, string other, string key, string ours, bool moreIsBetter) =>
        of.Of(other, key) is { } theirs && of.Of(Compare.Ours, ours) is { } own
            ? [.. theirs.Values.Zip(own.Values, (a, b) => moreIsBetter ? b / a : a / b)]
            : [];

    private static double? RowsRatio(Comparison of, string engine, int rows) =>
        of.Of(engine, $"rows {rows}") is { } several && of.Of(engine, "rows 1") is { } one ? several.Median / one.Median : null;

    private static object? Spread(IReadOnlyCollection<double> values) =>
        values.Count == 0 ? null : new { median = LlamaModel.Median(values), least = values.Min(), most = values.Max() };

    private static string Shown(IReadOnlyCollection<double> values) =>
        values.Count == 0 ? "" : $"{LlamaModel.Median(values):F2} ({values.Min():F2} to {values.Max():F2})";

    public static void Tell(Comparison of, CompareOptions options) => Console.WriteLine(options.Json ? Json(of, options) : Table(of, options));

    private static string Json(Comparison of, CompareOptions options)
    {
        string key(Measure measure) => measure.Key.Replace(' ', '_');

        return JsonSerializer.Serialize(new
        {
            model = of.Model,
            file_bytes = new FileInfo(of.Model).Length,
            cpu = of.Engines[0].Told("cpu"),
            simd = of.Engines[^1].Told("simd"),
            threads = options.Threads,
            rounds = options.Rounds,
            read_bandwidth_gb_s = of.Of(Compare.Ours, "bandwidth")?.Median,
            engines = of.Engines.ToDictionary(engine => engine.Name, engine => new
            {
                measures = of.Samples.Where(s => s.Engine == engine.Name).ToDictionary(s => s.Key.Replace(' ', '_'), s => Spread(s.Values)),
                rows_5_over_1 = RowsRatio(of, engine.Name, 5),
                rows_8_over_1 = RowsRatio(of, engine.Name, 8),
                load_ms = engine.LoadMs,
                first_token_from_start_ms = engine.FirstTokenMs,
                loaded_bytes = engine.Loaded,
                peak_bytes = engine.Peak,
            }),
            ratios = Others(of).ToDictionary(other => other.Name, other => Measures(options)
                .Select(m => (Key: key(m), Ratio: Spread(Ratios(of, other.Name, m.Key, m.Key, m.MoreIsBetter))))
                .Append((Key: "speculate", Ratio: Spread(Ratios(of, other.Name, "decode", "speculate", false))))
                .ToDictionary(pair => pair.Key, pair => pair.Ratio)),
        });
    }

    private static IEnumerable<Engine> Others(Comparison of) => of.Engines.Where(engine => engine.Name != Compare.Ours);

    private static string Table(Comparison of, CompareOptions options)
    {
        List<string[]> rows =
        [
            ["", .. of.Engines.Select(engine => engine.Name), .. Others(of).Select(other => $"better than {other.Name} by")],
        ];

        void Row(string title, Func<Engine, string> cell, Func<Engine, string> ratio) =>
            rows.Add([title, .. of.Engines.Select(cell), .. Others(of).Select(ratio)]);

        foreach (Measure measure in Measures(options))
        {
            Row(measure.Title, engine => Shown(of.Of(engine.Name, measure.Key)?.Values ?? []),
                other => Shown(Ratios(of, other.Name, measure.Key, measure.Key, measure.MoreIsBetter)));
        }

        if (options.Speculate is var (exit, draft))
        {
            Row($"a token by self-speculation, E = {exit}, d = {draft}, ms", engine => Shown(of.Of(engine.Name, "speculate")?.Values ?? []),
                other => Shown(Ratios(of, other.Name, "decode", "speculate", false)));
        }

        string none(Engine _) => "";
        foreach (int count in (int[])[5, 8]) Row($"{count} rows over one", engine => $"{RowsRatio(of, engine.Name, count):F2}", none);
        Row("load, ms", engine => $"{engine.LoadMs:F0}", none);
        Row("first token from the start, ms", engine => $"{engine.FirstTokenMs:F0}", none);
        Row("memory after loading, of the file", engine => $"{OfFile(engine.Loaded):F2}", none);
        Row("at the most", engine => $"{OfFile(engine.Peak):F2}", none);
        double OfFile(long bytes) => (double)bytes / new FileInfo(of.Model).Length;

        Engine last = of.Engines[^1];
        string reads = last.Told("simd") is { Length: > 0 } simd ? $"; ours by {simd}" : "";

        if (of.Of(Compare.Ours, "bandwidth")?.Median is { } best && of.Of(Compare.Ours, "decode")?.Median is { } ms)
        {
            double rate = double.Parse(last.Told("read_bytes")) / ms / 1e6;
            reads += $", reads {rate:F1} of {best:F1} GB/s ({rate / best:F2})";
        }

        return $"{of.Model}: {of.Engines[0].Told("cpu")}, {options.Threads} threads, {options.Rounds} rounds{reads}\n\n"
            + string.Join('\n', rows.Take(1).Append([.. rows[0].Select(_ => "---")]).Concat(rows.Skip(1)).Select(cells => $"| {string.Join(" | ", cells)} |"))
            + "\n";
    }
}
