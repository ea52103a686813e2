// Milliseconds that a sampling law takes over a vocabulary of 128,256 logits, beside those of its definition, which
// sorts them all: by filter, for flat and for steep logits.
//
//     dotnet fsi scripts/sampling.fsx --vocabulary N --laws N
#load "options.fsx"

open Options

let given = Given [ "--vocabulary N", "128256"; "--laws N", "40" ]

#if !READY
#load "build.fsx"
exit (Build.runReady (__SOURCE_DIRECTORY__ + "/" + __SOURCE_FILE__) fsi.CommandLineArgs[1..])
#else

open System
open System.Diagnostics
open LayerSkip

let vocabulary = given.Whole("--vocabulary", 2)
let laws = given.Whole("--laws", 1)

/// Standard normal numbers (Box and Muller 1958), as float32 logits are, times a spread.
let logits (spread: float) =
    let random = Random 1

    Array.init vocabulary (fun _ ->
        let radius = sqrt (-2.0 * log (1.0 - random.NextDouble()))
        spread * radius * cos (2.0 * Math.PI * random.NextDouble()) |> float32 |> float)

/// The definition, with everything sorted.
let sorted temperature k p (logits: float[]) =
    let scaled = logits |> Array.map (fun logit -> logit / temperature)

    let least =
        if k = 0 then
            -infinity
        else
            (Array.sortDescending scaled)[min k logits.Length - 1]

    let probabilities =
        scaled
        |> Array.map (fun logit -> if logit < least then -infinity else logit)
        |> Sampling.softmax

    if p >= 1.0 then
        probabilities
    else
        let order = [| 0 .. logits.Length - 1 |] |> Array.sortBy (fun id -> struct (-probabilities[id], id))
        let before = Array.scan (fun mass id -> mass + probabilities[id]) 0.0 order
        let kept = Array.zip order before[.. order.Length - 1] |> Array.takeWhile (fun (_, mass) -> mass < p)
        let total = kept |> Array.sumBy (fun (id, _) -> probabilities[id])
        let law = Array.zeroCreate logits.Length
        kept |> Array.iter (fun (id, _) -> law[id] <- probabilities[id] / total)
        law

let timed (body: unit -> float[]) =
    let started = Stopwatch.GetTimestamp()
    body () |> ignore
    Stopwatch.GetElapsedTime(started).TotalMilliseconds

printfn "%d logits, the best of %d laws each, in ms" vocabulary laws
printfn "%-22s %-8s %10s %10s" "filter" "logits" "law" "sorting"

for spread, shape in [ 1.0, "flat"; 4.0, "steep" ] do
    let logits = logits spread

    for name, temperature, k, p in
        [
            "temperature 0.8", 0.8, 0, 1.0
            "top-k 50", 0.8, 50, 1.0
            "top-p 0.9", 0.8, 0, 0.9
            "top-k 50, top-p 0.9", 0.8, 50, 0.9
        ] do
        let law () = Sampling.law (Sampling.Filtered(temperature, k, p, 0.0)) logits
        let plain () = sorted temperature k p logits

        // Until .NET has compiled all of it for speed.
        for _ in 1..30 do
            law () |> ignore

        plain () |> ignore

        // In turn, so that noise meets both.
        let times = Array.init laws (fun _ -> timed law, timed plain)
        printfn
            "%-22s %-8s %10.2f %10.2f"
            name
            shape
            (Array.min (Array.map fst times))
            (Array.min (Array.map snd times))
#endif
