namespace LayerSkip

open System
open System.IO
open System.Runtime.InteropServices
open System.Text

/// What a folder lists, on disk: a file that was flushed and renamed may be gone after a power cut, until its folder is
/// flushed too. .NET opens no folders.
[<RequireQualifiedAccess>]
module internal FolderSync =
    [<DllImport("libc", EntryPoint = "open", SetLastError = true)>]
    extern int private openRead(byte[] path, int flags)

    [<DllImport("libc", SetLastError = true)>]
    extern int private fsync(int descriptor)

    [<DllImport("libc")>]
    extern int private close(int descriptor)

    // As Linux numbers them: a fault of the device, no space, no quota. Whatever else it says, some file systems know no
    // flushing of folders.
    let private closeOnStart, faults = 0x80000, [ 5; 28; 122 ]

    /// Returns when the names in a folder are on disk; an IOException where they cannot be. Elsewhere than on Linux
    /// it does nothing. A file system that knows no flushing of folders is no error (man 2 fsync, EINVAL).
    let flush (folder: string) : unit =
        if OperatingSystem.IsLinux() then
            let descriptor = openRead (Encoding.UTF8.GetBytes(folder + "\000"), closeOnStart)

            if descriptor >= 0 then
                try
                    if fsync descriptor <> 0 then
                        match Marshal.GetLastPInvokeError() with
                        | error when List.contains error faults ->
                            raise (IOException(Marshal.GetPInvokeErrorMessage error, error))
                        | _ -> ()
                finally
                    close descriptor |> ignore
