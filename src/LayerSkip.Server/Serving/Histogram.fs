namespace LayerSkip.Server

open System.Globalization
open System.Text

/// How often values fell under each of some bounds, as Prometheus counts: any thread may add.
[<Sealed>]
type internal Histogram(bounds: float[]) =
    let counts = Array.zeroCreate<int64>(bounds.Length + 1)
    let mutable sum = 0.0

    /// Counts a value `times` times.
    member _.Add(value: float, times: int) : unit =
        let place = bounds |> Array.tryFindIndex (fun bound -> value <= bound)

        lock counts (fun () ->
            let place = defaultArg place bounds.Length
            counts[place] <- counts[place] + int64 times
            sum <- sum + value * float times)

    /// Each bound with how many values are at most that; then all, and their sum.
    member _.Read() : struct ((float * int64)[] * int64 * float) =
        lock counts (fun () ->
            let summed = Array.scan (+) 0L counts |> Array.tail
            struct (Array.zip bounds summed[.. bounds.Length - 1], Array.last summed, sum))

/// The text form of Prometheus' metrics, version 0.0.4. Every sample has the labels of `labels`.
[<Sealed>]
type internal PrometheusText(labels: (string * string) list) =
    let text = StringBuilder()

    let number (value: float) = value.ToString("R", CultureInfo.InvariantCulture)

    let escaped (value: string) = value.Replace("\\", "\\\\").Replace("\"", "\\\"").Replace("\n", "\\n")

    let sample (name: string) (more: (string * string) list) (value: float) =
        let all =
            labels @ more
            |> List.map (fun (key, value) -> $"{key}=\"{escaped value}\"")
            |> String.concat ","

        text.Append(name).Append('{').Append(all).Append("} ").Append(number value).Append('\n')
        |> ignore

    let head (name: string) (kind: string) (help: string) =
        text.Append($"# HELP {name} {help}\n# TYPE {name} {kind}\n") |> ignore

    /// What only grows, once for each set of labels.
    member _.Counters(name: string, help: string, values: ((string * string) list * int64) seq) : unit =
        head name "counter" help
        values |> Seq.iter (fun (labels, value) -> sample name labels (float value))

    /// What only grows.
    member this.Counter(name: string, help: string, value: int64) : unit =
        this.Counters(name, help, [ [], value ])

    /// What comes and goes.
    member _.Gauge(name: string, help: string, value: float) : unit =
        head name "gauge" help
        sample name [] value

    member _.Histogram(name: string, help: string, histogram: Histogram) : unit =
        head name "histogram" help
        let struct (buckets, count, sum) = histogram.Read()

        for bound, below in buckets do
            sample $"{name}_bucket" [ "le", number bound ] (float below)

        sample $"{name}_bucket" [ "le", "+Inf" ] (float count)
        sample $"{name}_sum" [] sum
        sample $"{name}_count" [] (float count)

    override _.ToString() = text.ToString()
