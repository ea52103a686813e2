namespace LayerSkip

/// What policies that choose exits and draft lengths do over a text.
[<RequireQualifiedAccess>]
module PolicyPlots =
    /// The exit layer and the draft length of each round, and what was kept of it.
    let timeline (subtitle: string) (policy: string) (rounds: (int * int * int) list) : Picture =
        let at (pick: int * int * int -> int) =
            rounds |> List.mapi (fun i round -> float (i + 1), float (pick round))

        Picture.marks
            $"What {policy} chooses, round by round"
            subtitle
            "A good policy drafts far where drafts are kept, and little or not at all where they are refused: the dots, drafts kept, then lie on the line of drafts."
            (Axis.whole "round" "")
            (Axis.whole "layer, and tokens" "")
            [
                Mark.Steps("exit layer E", at (fun (exit, _, _) -> exit))
                Mark.Steps("drafts d", at (fun (_, drafted, _) -> drafted))
                Mark.Dots(
                    "drafts kept",
                    at (fun (_, _, kept) -> kept) |> List.map (fun (x, y) -> { X = x; Y = y; Note = "" })
                )
            ]
