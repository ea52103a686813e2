namespace LayerSkip

open System.Globalization

/// The certificate of exactness as a panel.
[<RequireQualifiedAccess>]
module CertificatePlots =
    let private meanings =
        Map [
            "T1", "texts are equal"
            "T2", "each token is the whole model's"
            "T3", "its logits have the same bits"
            "T4", "sampling keeps its law"
            "T5", "the cache is a fresh prefill's"
        ]

    let private scientific (value: float) = value.ToString("0.##E+0", CultureInfo.InvariantCulture)
    let private name (test: CertifyTest) =
        Map.tryFind test.Name meanings
        |> Option.map (fun meaning -> $"{test.Name}: {meaning}")
        |> Option.defaultValue test.Name

    let private table (report: CertifyReport) =
        let row tag (cells: string list) =
            cells
            |> List.map (fun cell -> $"<{tag}>{Page.escape cell}</{tag}>")
            |> System.String.Concat
            |> sprintf "<tr>%s</tr>"

        let counts checks exact tie violation = [
            for count: int in [ checks; exact; tie; violation ] ->
                count.ToString("N0", CultureInfo.InvariantCulture)
        ]

        [
            row "th" [ "test"; "checks"; "exact"; "ties"; "violations" ]
            for test in report.Tests do
                row "td" (name test :: counts test.Checks test.Exact test.Tie test.Violation)
            row
                "td"
                ("all"
                 :: counts (report.Tests |> List.sumBy _.Checks) report.Exact report.Tie report.Violation)
        ]
        |> String.concat "\n"
        |> sprintf "<table>\n%s\n</table>"

    /// The counts, and the share of each test's findings that are exact, ties or violations.
    let ofReport (machine: string) (report: CertifyReport) : PagePart list =
        let verdict =
            if report.Violation = 0 then
                "Certified"
            else
                "NOT certified"
        let subtitle =
            $"{Fingerprint.name report.Model}, {report.Dtype}, kv {report.Kv}, prefill {report.Prefill}; {machine}"
        let tests = report.Tests |> List.filter (fun test -> test.Checks > 0)

        let shares (count: CertifyTest -> int) =
            tests |> List.mapi (fun i test -> float i, float (count test) / float test.Checks)

        [
            PagePart.Written(
                $"{verdict}: {report.Exact} exact, {report.Tie} ties, {report.Violation} violations",
                subtitle,
                table report,
                $"A tie is a token other than the whole model's whose logit is within {scientific report.Gap} of the largest |logit| of it. The widest gap seen is {scientific report.WorstGap}. A violation is wider: a fault."
            )
            PagePart.Drawn(
                Picture.marks
                    "Findings of each test"
                    subtitle
                    "What is decoded early beside what the whole model decodes."
                    (Axis.names "test" (List.map name tests))
                    (Axis.share "findings")
                    [
                        Mark.Parts("exact", shares _.Exact)
                        Mark.Parts("violation", shares _.Violation)
                        Mark.Parts("tie", shares _.Tie)
                    ]
            )
        ]
