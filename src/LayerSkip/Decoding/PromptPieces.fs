namespace LayerSkip

open LayerSkip.Kernels

/// A long prompt, piece after piece, so that others have their turns in between. Its rows are to the bit those of one pass: on the CPU kernels
/// they do not depend on where a prompt is cut, as long as no piece is short.
[<RequireQualifiedAccess>]
module internal PromptPieces =
    /// Rows of a piece at most: as many as the kernels decode a weight for at once.
    let private most = DecoderPass.RoundedPieceRows

    /// Ids that are read in about the time of a round.
    let few = 32

    /// How many pieces so many ids of a prompt are: one where libtorch computes.
    let count (weights: Weights) (left: int) : int =
        if weights.Kernels.IsNone then
            1
        else
            (left + most - 1) / most

    let private left (prompt: int[]) (cache: Cache) = prompt.Length - cache.Early.Length

    /// Whether more than one is left.
    let areMore (decoding: Decoding) (prompt: int[]) (cache: Cache) : bool =
        count decoding.Weights (left prompt cache) > 1

    /// Reads the next one into a cache that awaits the prompt, of much the same size as those after it.
    let read (decoding: Decoding) (prompt: int[]) (cache: Cache) : Cache =
        let left, start = left prompt cache, cache.Early.Length
        let pieces = count decoding.Weights left
        let rows = (left + pieces - 1) / pieces
        Cache.reserve prompt.Length cache

        let struct (_, read) =
            Scope.free (fun () -> Verification.forward decoding 1 prompt[start .. start + rows - 1] cache)

        read
