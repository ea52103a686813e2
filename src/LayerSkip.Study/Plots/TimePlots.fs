namespace LayerSkip

/// Where time goes.
[<RequireQualifiedAccess>]
module TimePlots =
    /// What a token's time is spent on, of one or more ways to decode.
    let phases (subtitle: string) (runs: (string * Phases) list) : Picture =
        let names = List.map fst runs
        let of' (pick: Phases -> float) = runs |> List.mapi (fun i (_, phases) -> float i, pick phases)

        Picture.marks
            "Where the time of a token goes"
            subtitle
            "Drafts cost little each and the verification is shared by a round's tokens. Heads (norm, logits and the choice of a token) are part of both; the dot says how much."
            (Axis.names "decoding" names)
            (Axis.linear "time" "ms a token")
            [
                Mark.Parts("draft passes, heads included", of' _.DraftMs)
                Mark.Parts("passes of all layers, heads included", of' _.VerifyMs)
                Mark.Parts("beside all passes", of' _.OverheadMs)
                Mark.Dots(
                    "of these, in heads",
                    of' _.HeadMs
                    |> List.map (fun (x, ms) -> { X = x; Y = ms; Note = $"heads: {PlotNumber.short ms} ms" })
                )
            ]

    /// What passes take by their rows, beside what reading the weights once takes at best: the roofline of decoding. `floor`:
    /// that time in milliseconds, at `bandwidth` GB/s.
    let passes (subtitle: string) (floor: float) (bandwidth: float) (passes: (int * float) list) : Picture =
        Picture.marks
            "What a pass takes, by the tokens it reads"
            subtitle
            $"A pass reads every weight once, whatever its rows: at the {PlotNumber.short bandwidth} GB/s that memory gives, not faster than the dashed line, unless the processor's caches hold the model. As long as the line is flat, verifying drafts is free; as it rises, computing takes over."
            (Axis.whole "tokens in the pass" "rows")
            (Axis.linear "time" "ms a pass")
            [
                Mark.Line("measured", passes |> List.map (fun (rows, ms) -> float rows, ms))
                Mark.Guide(
                    "weights read once at best",
                    passes |> List.map (fun (rows, _) -> float rows, floor)
                )
            ]

    /// A benchmark's page. `model` and `plan` are what its subtitles name.
    let ofBenchmark (model: string) (plan: string) (report: BenchmarkReport) : PagePart list =
        let times (decoding: DecodingTimes) : Phases = {
            DraftMs = decoding.DraftMs
            VerifyMs = decoding.VerifyMs
            HeadMs = decoding.HeadMs
            OverheadMs = decoding.OverheadMs
        }

        let subtitle = $"{model}, {plan}; {report.Cpu}, {report.Threads} threads"
        let own = report.Autoregressive
        let floor = report.AutoregressiveRate * own.MsPerToken.Median / report.ReadBandwidth
        let metrics = report.Decoded |> Seq.map snd |> SpeculationMetrics.ofCompletions

        [
            PagePart.Drawn(
                phases $"{subtitle}; {PlotNumber.short report.Ratio} times as fast" [
                    "autoregressive", times own
                    "self-speculative", times report.SelfSpeculative
                ]
            )
            PagePart.Drawn(passes subtitle floor report.ReadBandwidth report.PassMs)
            PagePart.Drawn(AcceptancePlots.lengths subtitle [ "self-speculative", metrics ])
            PagePart.Drawn(AcceptancePlots.byPosition subtitle [ "self-speculative", metrics ])
        ]
